"""Parses EasyEdit's reduced CounterFact, KnowEdit, and bare edits without test prompts."""

from collections.abc import Iterator

from kedit.data import relations
from kedit.data.cases import UNNAMED, edit_case, relation_probes, relation_side, target_probe
from kedit.data.fields import (
    MissingField,
    Record,
    field,
    flattened,
    id_of,
    objects,
    optional,
    with_location,
)
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Group, Probe, Relation

NEEDS = "subject, prompt (with the subject in it), target_new, ground_truth"
# KnowEdit's kind of locality whose prompts are about other relations of the same subject
OTHER_RELATIONS = "Relation_Specificity"


def parse(location: str, record: Record) -> EditCase:
    """Parses an edit case whose `prompt` is a text with the subject in it.

    Optional fields are rephrase_prompt or rephrase; locality_prompt and its locality_ground_truth;
    and KnowEdit's locality and portability, which hold lists of prompts with answers by kind. An
    answer is a text or, in KnowEdit, lists of texts with the same meaning, of which the first is
    used. A locality prompt without an answer gets the word that the unedited model says. If the
    record names the relation (relation, or a relation_id that kedit knows), the case has a relation
    side too.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    try:
        request = EditRequest(
            parse_fact(location, record), _answers(location, record, "target_new")[0]
        )
        probes = [target_probe(request, "efficacy", request.fact.prompt)]
        for name in ("rephrase_prompt", "rephrase"):
            texts = flattened(location, record, name)
            probes += [target_probe(request, "paraphrase", text) for text in texts]
        if other := optional(location, record, "locality_prompt"):
            answer = optional(location, record, "locality_ground_truth")
            probes.append(_unchanged_probe(request, "neighborhood", other, answer))
        for kind, where, test in _by_kind(location, record, "locality"):
            group: Group = "other relations" if kind == OTHER_RELATIONS else "neighborhood"
            answer = next(iter(flattened(where, test, "ground_truth")), "")
            probes.append(_unchanged_probe(request, group, field(where, test, "prompt"), answer))
        for _, where, test in _by_kind(location, record, "portability"):
            answer, *aliases = _answers(where, test, "ground_truth")
            prompt = field(where, test, "prompt")
            probes.append(Probe("entity", "portability", prompt, answer, aliases=tuple(aliases)))
        relation = None
        if request.fact.relation.name:
            relation = relation_side(request)
            probes += relation_probes(request, 0)
        return edit_case(id_of(location, record), request, probes, relation)
    except RecordError as error:
        raise with_location(location, error) from None


def parse_fact(location: str, record: Record) -> Fact:
    """Parses the fact that is edited; its relation is UNNAMED if the record does not name it."""
    subject, prompt = field(location, record, "subject"), field(location, record, "prompt")
    truth = _answers(location, record, "ground_truth")[0]
    try:
        return Fact(subject, _relation(location, record), truth, cut_out(prompt, subject))
    except RecordError as error:
        raise with_location(location, error) from None


def parse_edit(location: str, record: Record) -> EditCase:
    """Parses an edit without test prompts: a `prompt_template` with {} and the relation's id.

    Raises:
        RecordError: a field is missing or unusable; the message names location and field.
    """
    subject, template = (
        field(location, record, "subject"),
        field(location, record, "prompt_template"),
    )
    relation = relations.find(field(location, record, "relation_id"))
    try:
        fact = Fact(subject, relation, field(location, record, "ground_truth"), template)
        request = EditRequest(fact, field(location, record, "target_new"))
        efficacy = target_probe(request, "efficacy", fact.prompt)
        return edit_case(id_of(location, record), request, [efficacy])
    except RecordError as error:
        raise with_location(location, error) from None


def _answers(location: str, record: Record, name: str) -> tuple[str, ...]:
    """Returns the text of a field, or its texts with the same meaning, at least one.

    Raises:
        RecordError: the field has no text, or something in it is not a text.
    """
    if record.get(name) is None:
        raise MissingField(f"{location}: field {name!r} is missing")
    found = flattened(location, record, name)
    if not found:
        raise RecordError(f"{location}: field {name!r}: expected a text, got {record[name]!r:.60}")
    return found


def _relation(location: str, record: Record) -> Relation:
    known = relations.table().get(optional(location, record, "relation_id"))
    name = optional(location, record, "relation")
    if not name:
        return known.relation if known else UNNAMED
    return Relation(known.relation.id if known else name, name)


def _unchanged_probe(request: EditRequest, group: Group, prompt: str, answer: str) -> Probe:
    rival = "" if answer == request.target else request.target
    return Probe("entity", group, prompt, answer, rival)


def _by_kind(location: str, record: Record, name: str) -> Iterator[tuple[str, str, Record]]:
    """Yields kind, location and record of each prompt in KnowEdit's field `name`."""
    kinds = optional(location, record, name, dict)
    for kind in kinds:
        for where, test in objects(f"{location}: {name}", kinds, kind):
            yield kind, where, test
