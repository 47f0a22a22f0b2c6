"""zsRE in the form of MEND (Mitchell et al. 2022), with EasyEdit's portability where it is."""

from kedit.data.cases import UNNAMED, edit_case, target_probe
from kedit.data.fields import Record, field, id_of, optional, placed, texts
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Probe

NEEDS = "subject, src (the question), answers or pred, alt"


def parse(place: str, record: Record) -> EditCase:
    """An edit of an answer: the question src, from answers[0] to alt.

    The records have no ids: the place in the file is taken for one. What they have for locality is
    a question on something else, so its answer has no rival.

    Raises:
        RecordError: names place and field.
    """
    fact = parse_fact(place, record)
    try:
        request = EditRequest(fact, field(place, record, "alt"))
        probes = [target_probe(request, "efficacy", fact.prompt)]
        if rephrased := optional(place, record, "rephrase"):
            probes.append(target_probe(request, "paraphrase", rephrased))
        if asked := optional(place, record, "loc"):
            asked = asked.removeprefix("nq question: ").rstrip(" ?") + "?"
            probes.append(Probe("entity", "neighborhood", asked, field(place, record, "loc_ans")))
        if further := optional(place, record, "portability", dict):
            asked = field(place, further, "New Question")
            probes.append(
                Probe("entity", "portability", asked, field(place, further, "New Answer"))
            )
        return edit_case(id_of(place, record), request, probes)
    except RecordError as error:
        raise placed(place, error) from None


def parse_fact(place: str, record: Record) -> Fact:
    """The question src with its answer."""
    subject, question = field(place, record, "subject"), field(place, record, "src")
    answers = texts(place, record, "answers") or (field(place, record, "pred"),)
    try:
        return Fact(subject, UNNAMED, answers[0], cut_out(question, subject, "src"))
    except RecordError as error:
        raise placed(place, error) from None
