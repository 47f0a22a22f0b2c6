"""CounterFact in its original schema (Meng et al. 2022): its facts, and its edits."""

from pathlib import Path

from kedit.data import relations
from kedit.data.cases import edit_case, kept, wanted
from kedit.data.fields import Record, case_id, field, placed, texts
from kedit.data.read import records
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact


def load(path: str | Path) -> list[Fact]:
    """Every record's requested_rewrite with its true object.

    Raises:
        RecordError: names file, record and field.
    """
    return [parse_fact(place, record) for place, record in records(path)]


def parse_fact(place: str, record: Record) -> Fact:
    rewrite = field(place, record, "requested_rewrite", dict)
    where = f"{place}: requested_rewrite"
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
            wanted(request, "efficacy", fact.prompt),
            *(
                wanted(request, "paraphrase", prompt)
                for prompt in texts(place, record, "paraphrase_prompts")
            ),
            *(kept(request, prompt) for prompt in texts(place, record, "neighborhood_prompts")),
        ]
        generation = texts(place, record, "generation_prompts")
        return edit_case(case_id(place, record), request, probes, generation=generation)
    except RecordError as error:
        raise placed(place, error) from None
