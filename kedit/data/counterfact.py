"""Parses the facts and edits of CounterFact in its original schema (Meng et al. 2022)."""

from kedit.data import relations
from kedit.data.cases import edit_case, neighbour_probe, target_probe
from kedit.data.fields import Record, field, id_of, texts, with_location
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact

NEEDS = "requested_rewrite (with subject, prompt, relation_id, target_true.str, target_new.str)"


def parse_fact(location: str, record: Record) -> Fact:
    """Parses the fact of a record: its requested_rewrite with the true object.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    rewrite = field(location, record, "requested_rewrite", dict)
    return rewritten(f"{location}: requested_rewrite", rewrite)


def rewritten(where: str, rewrite: Record) -> Fact:
    """Parses the fact that a requested_rewrite changes.

    Args:
        where: location of the requested_rewrite, for messages.
    """
    try:
        return Fact(
            field(where, rewrite, "subject"),
            relations.find(field(where, rewrite, "relation_id")),
            field(where, rewrite, "target_true.str"),
            field(where, rewrite, "prompt"),
        )
    except RecordError as error:
        raise with_location(where, error) from None


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case. It has an entity side only, as CounterFact does.

    The attribute_prompts become no probes, since ROME's code scores them but never summarises the
    scores.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    fact = parse_fact(location, record)
    try:
        request = EditRequest(fact, field(location, record, "requested_rewrite.target_new.str"))
        probes = [
            target_probe(request, "efficacy", fact.prompt),
            *(
                target_probe(request, "paraphrase", prompt)
                for prompt in texts(location, record, "paraphrase_prompts")
            ),
            *(
                neighbour_probe(request, prompt)
                for prompt in texts(location, record, "neighborhood_prompts")
            ),
        ]
        generation = texts(location, record, "generation_prompts")
        return edit_case(id_of(location, record), request, probes, generation=generation)
    except RecordError as error:
        raise with_location(location, error) from None
