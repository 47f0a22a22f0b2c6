"""CounterFact in its original schema (Meng et al. 2022): its facts, and its edits."""

from kedit.data import relations
from kedit.data.cases import edit_case, neighbour_probe, target_probe
from kedit.data.fields import Record, field, id_of, placed, texts
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact

NEEDS = "requested_rewrite (with subject, prompt, relation_id, target_true.str, target_new.str)"


def parse_fact(place: str, record: Record) -> Fact:
    """The requested_rewrite with its true object.

    Raises:
        RecordError: names place and field.
    """
    rewrite = field(place, record, "requested_rewrite", dict)
    return rewritten(f"{place}: requested_rewrite", rewrite)


def rewritten(where: str, rewrite: Record) -> Fact:
    """The fact that a requested_rewrite changes."""
    try:
        return Fact(
            field(where, rewrite, "subject"),
            relations.find(field(where, rewrite, "relation_id")),
            field(where, rewrite, "target_true.str"),
            field(where, rewrite, "prompt"),
        )
    except RecordError as error:
        raise placed(where, error) from None


def parse(place: str, record: Record) -> EditCase:
    """The entity side of an edit; CounterFact has no other.

    Its attribute_prompts make no probes: upstream scores them and never sums the scores up.

    Raises:
        RecordError: names place and field.
    """
    fact = parse_fact(place, record)
    try:
        request = EditRequest(fact, field(place, record, "requested_rewrite.target_new.str"))
        probes = [
            target_probe(request, "efficacy", fact.prompt),
            *(
                target_probe(request, "paraphrase", prompt)
                for prompt in texts(place, record, "paraphrase_prompts")
            ),
            *(
                neighbour_probe(request, prompt)
                for prompt in texts(place, record, "neighborhood_prompts")
            ),
        ]
        generation = texts(place, record, "generation_prompts")
        return edit_case(id_of(place, record), request, probes, generation=generation)
    except RecordError as error:
        raise placed(place, error) from None
