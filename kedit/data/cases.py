"""What the forms of edit cases share: probes, both sides of a fact, and what a record lacks."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from kedit.data import relations
from kedit.data.relations import STATEMENT
from kedit.facts import (
    NO_RELATION,
    EditCase,
    EditRequest,
    Fact,
    Group,
    Perspective,
    Probe,
    Relation,
    seen_from_relation,
)

UNNAMED = Relation("", "")  # where a file does not say which relation a fact is of
RELATION_SIDE = "relation side (experiments.build_rake makes it)"
LACKS: dict[tuple[Perspective, Group], str] = {
    ("entity", "paraphrase"): "paraphrases",
    ("entity", "neighborhood"): "neighborhood prompts",
    ("entity", "other relations"): "other relations",
    ("entity", "portability"): "portability",
    ("relation", "paraphrase"): "relation paraphrases",
    ("relation", "removal paraphrase"): "removal paraphrases",
    ("relation", "neighborhood"): "relation neighbours",
    ("relation", "other objects"): "other objects",
    ("relation", "other relations"): "other relations known to the data",
}
GENERATION = "generation prompts"
NEIGHBOURS = 10  # at most, as CounterFact has


def target_probe(request: EditRequest, group: Group, prompt: str) -> Probe:
    """Where the edit shall show: its target, before what the fact says now."""
    return Probe("entity", group, prompt, answer=request.target, rival=request.fact.object)


def neighbour_probe(request: EditRequest, prompt: str) -> Probe:
    """A neighbour with the same true object, which the edit shall leave alone."""
    return Probe("entity", "neighborhood", prompt, answer=request.fact.object, rival=request.target)


def relation_side(entity: EditRequest) -> EditRequest:
    """The same change from the other side, in the words that fit any relation with a name."""
    stated = (STATEMENT.filled("{}", text) for text in (entity.target, entity.fact.object))
    return seen_from_relation(entity, *stated)


def relation_probes(
    entity: EditRequest, number: int, neighbours: Iterable[Fact] = (), known: Iterable[Fact] = ()
) -> Iterator[Probe]:
    """What a relation edit is tested with, made from the relation's name.

    Args:
        number: of the case: three of the wordings that fit any relation take turns by it.
        neighbours: facts of the relation about other subjects, which are to keep it.
        known: other facts of the subject.
    """
    fact, label = entity.fact, entity.fact.relation.name
    wordings = relations.generic()
    chosen = [wordings[(number + step) % len(wordings)] for step in (0, 3, 6)]
    groups: tuple[tuple[Group, Group, Sequence[relations.Wording]], ...] = (
        ("efficacy", "removal", [STATEMENT]),
        ("paraphrase", "removal paraphrase", chosen),
    )
    for adding, removing, texts in groups:
        for text in texts:
            new, old = (
                text.filled(fact.subject, entity.target),
                text.filled(fact.subject, fact.object),
            )
            yield Probe("relation", adding, new, label, NO_RELATION, label=label)
            yield Probe("relation", removing, old, NO_RELATION, label, label=label)
    for other in islice(neighbours, NEIGHBOURS):
        prompt = STATEMENT.filled(other.subject, other.object)
        yield Probe("relation", "neighborhood", prompt, label, NO_RELATION, label=label)
    for other in known:
        if other.object not in (fact.object, entity.target):
            prompt, name = STATEMENT.filled(fact.subject, other.object), other.relation.name
            yield Probe("relation", "other relations", prompt, name, label, label=name)


# seven parameters: a record's parts, most of which a form may lack
def edit_case(
    id: str,
    entity: EditRequest,
    probes: Iterable[Probe],
    relation: EditRequest | None = None,
    generation: tuple[str, ...] = (),
    stated: Iterable[str] = (),
    others: tuple[EditRequest, ...] = (),
) -> EditCase:
    """The case, with what it lacks: what `stated` says, and each group that has no probe."""
    probes = tuple(probes)
    there = {(probe.perspective, probe.group) for probe in probes}
    sides = {"entity"} if relation is None else {"entity", "relation"}
    lacks = [words for key, words in LACKS.items() if key[0] in sides and key not in there]
    if not generation:
        lacks.append(GENERATION)
    if relation is None:
        lacks.append(RELATION_SIDE)
    return EditCase(
        id, entity, relation, probes, generation, tuple(dict.fromkeys((*stated, *lacks))), others
    )
