"""Parses zsRE in MEND's format (Mitchell et al. 2022), perhaps with EasyEdit's portability."""

from kedit.data.cases import UNNAMED, edit_case, target_probe
from kedit.data.fields import Record, field, id_of, optional, texts, with_location
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Probe

NEEDS = "subject, src (the question), answers or pred, alt"


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case: the answer to the question src changes from answers[0] to alt.

    The records have no ids, so the location in the file is the id. The locality question is about
    something else, so its answer has no rival.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    fact = parse_fact(location, record)
    try:
        request = EditRequest(fact, field(location, record, "alt"))
        probes = [target_probe(request, "efficacy", fact.prompt)]
        if rephrased := optional(location, record, "rephrase"):
            probes.append(target_probe(request, "paraphrase", rephrased))
        if other := optional(location, record, "loc"):
            other = other.removeprefix("nq question: ").rstrip(" ?") + "?"
            probes.append(
                Probe("entity", "neighborhood", other, field(location, record, "loc_ans"))
            )
        if further := optional(location, record, "portability", dict):
            prompt = field(location, further, "New Question")
            answer = field(location, further, "New Answer")
            probes.append(Probe("entity", "portability", prompt, answer))
        return edit_case(id_of(location, record), request, probes)
    except RecordError as error:
        raise with_location(location, error) from None


def parse_fact(location: str, record: Record) -> Fact:
    """Parses the fact: the question src with its answer, whose relation is UNNAMED."""
    subject, question = field(location, record, "subject"), field(location, record, "src")
    answers = texts(location, record, "answers") or (field(location, record, "pred"),)
    try:
        return Fact(subject, UNNAMED, answers[0], cut_out(question, subject, "src"))
    except RecordError as error:
        raise with_location(location, error) from None
