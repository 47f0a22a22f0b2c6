"""EasyEdit's reduced form of CounterFact, KnowEdit, and the edits alone, as lists of edits are."""

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
    placed,
)
from kedit.data.known import cut_out
from kedit.errors import RecordError
from kedit.facts import EditCase, EditRequest, Fact, Group, Probe, Relation

NEEDS = "subject, prompt (with the subject in it), target_new, ground_truth"
# KnowEdit's kind of locality that asks of the same subject by other relations
OTHER_RELATIONS = "Relation_Specificity"


def parse(place: str, record: Record) -> EditCase:
    """An edit whose `prompt` is a whole sentence with the subject in it.

    Optional: rephrase_prompt or rephrase; locality_prompt, and with it locality_ground_truth;
    KnowEdit's locality and portability, lists of prompts with answers by kind. An answer may be a
    text or, as KnowEdit has it, lists of texts that mean the same, the first of which is taken.
    Without an answer it is the word that the unedited model says. Where the relation is named
    (relation, or a relation_id that kedit knows), the case has a relation side too.

    Raises:
        RecordError: names place and field.
    """
    try:
        request = EditRequest(parse_fact(place, record), _answers(place, record, "target_new")[0])
        probes = [target_probe(request, "efficacy", request.fact.prompt)]
        for name in ("rephrase_prompt", "rephrase"):
            texts = flattened(place, record, name)
            probes += [target_probe(request, "paraphrase", text) for text in texts]
        if other := optional(place, record, "locality_prompt"):
            answer = optional(place, record, "locality_ground_truth")
            probes.append(_staying(request, "neighborhood", other, answer))
        for kind, where, asked in _by_kind(place, record, "locality"):
            group: Group = "other relations" if kind == OTHER_RELATIONS else "neighborhood"
            answer = next(iter(flattened(where, asked, "ground_truth")), "")
            probes.append(_staying(request, group, field(where, asked, "prompt"), answer))
        for _, where, asked in _by_kind(place, record, "portability"):
            answer, *aliases = _answers(where, asked, "ground_truth")
            prompt = field(where, asked, "prompt")
            probes.append(Probe("entity", "portability", prompt, answer, aliases=tuple(aliases)))
        relation = None
        if request.fact.relation.name:
            relation = relation_side(request)
            probes += relation_probes(request, 0)
        return edit_case(id_of(place, record), request, probes, relation)
    except RecordError as error:
        raise placed(place, error) from None


def parse_fact(place: str, record: Record) -> Fact:
    """The fact that is edited; its relation is UNNAMED where the record does not name it."""
    subject, prompt = field(place, record, "subject"), field(place, record, "prompt")
    truth = _answers(place, record, "ground_truth")[0]
    try:
        return Fact(subject, _relation(place, record), truth, cut_out(prompt, subject))
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
        efficacy = target_probe(request, "efficacy", fact.prompt)
        return edit_case(id_of(place, record), request, [efficacy])
    except RecordError as error:
        raise placed(place, error) from None


def _answers(place: str, record: Record, name: str) -> tuple[str, ...]:
    """A text, or texts that mean the same, at least one.

    Raises:
        RecordError: there is none, or something in it is no text.
    """
    if record.get(name) is None:
        raise MissingField(f"{place}: field {name!r} is missing")
    found = flattened(place, record, name)
    if not found:
        raise RecordError(f"{place}: field {name!r}: a text is wanted, got {record[name]!r:.60}")
    return found


def _relation(place: str, record: Record) -> Relation:
    known = relations.table().get(optional(place, record, "relation_id"))
    name = optional(place, record, "relation")
    if not name:
        return known.relation if known else UNNAMED
    return Relation(known.relation.id if known else name, name)


def _staying(request: EditRequest, group: Group, prompt: str, answer: str) -> Probe:
    rival = "" if answer == request.target else request.target
    return Probe("entity", group, prompt, answer, rival)


def _by_kind(place: str, record: Record, name: str) -> Iterator[tuple[str, str, Record]]:
    """The prompts of KnowEdit's `name`, each with its kind and its place."""
    kinds = optional(place, record, name, dict)
    for kind in kinds:
        for where, asked in objects(f"{place}: {name}", kinds, kind):
            yield kind, where, asked
