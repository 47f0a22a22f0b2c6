"""EasyEdit's reduced form of CounterFact, and the edits alone, as its lists of edits have them."""

from kedit.data import relations
from kedit.data.cases import UNNAMED, edit_case, wanted
from kedit.data.fields import Record, case_id, field, optional, placed
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Probe


def parse(place: str, record: Record) -> EditCase:
    """An edit whose `prompt` is a whole sentence with the subject in it.

    Optional: rephrase_prompt; locality_prompt, and with it locality_ground_truth. Without the
    latter the answer is the word that the unedited model says.

    Raises:
        RecordError: names place and field.
    """
    subject, prompt = field(place, record, "subject"), field(place, record, "prompt")
    try:
        fact = Fact(
            subject, UNNAMED, field(place, record, "ground_truth"), cut_out(prompt, subject)
        )
        request = EditRequest(fact, field(place, record, "target_new"))
        probes = [wanted(request, "efficacy", fact.prompt)]
        if rephrased := optional(place, record, "rephrase_prompt"):
            probes.append(wanted(request, "paraphrase", rephrased))
        if other := optional(place, record, "locality_prompt"):
            answer = optional(place, record, "locality_ground_truth")
            rival = "" if answer == request.target else request.target
            probes.append(Probe("entity", "neighborhood", other, answer, rival))
        return edit_case(case_id(place, record), request, probes)
    except RecordError as error:
        raise placed(place, error) from None


def parse_edit(place: str, record: Record) -> EditCase:
    """An edit and nothing to test it with: a `prompt_template` with {} and the relation's id.

    Raises:
        RecordError: names place and field.
    """
    subject, template = field(place, record, "subject"), field(place, record, "prompt_template")
    relation = relations.find(field(place, record, "relation_id"))
    try:
        fact = Fact(subject, relation, field(place, record, "ground_truth"), template)
        request = EditRequest(fact, field(place, record, "target_new"))
        efficacy = wanted(request, "efficacy", fact.prompt)
        return edit_case(case_id(place, record), request, [efficacy])
    except RecordError as error:
        raise placed(place, error) from None
