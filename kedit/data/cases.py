"""Builds edit cases and their probes, for all data sets and file formats of edits."""

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

UNNAMED = Relation("", "")  # for facts whose file does not name the relation
RELATION_SIDE = "relation side (experiments.build_rake makes it)"
# what `EditCase.lacks` says where a case has no probe of a group
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
NEIGHBOURS = 10  # at most per case, as in CounterFact


def target_probe(request: EditRequest, group: Group, prompt: str) -> Probe:
    """Builds a probe of whether the target has become likelier than the present object."""
    return Probe("entity", group, prompt, answer=request.target, rival=request.fact.object)


def neighbour_probe(request: EditRequest, prompt: str) -> Probe:
    """Builds a probe of whether a neighbour with the same true object keeps it."""
    return Probe("entity", "neighborhood", prompt, answer=request.fact.object, rival=request.target)


def relation_side(entity: EditRequest) -> EditRequest:
    """Builds the relation side of an edit, in a wording that fits any relation with a name."""
    stated = (STATEMENT.filled("{}", text) for text in (entity.target, entity.fact.object))
    return seen_from_relation(entity, *stated)


def relation_probes(
    entity: EditRequest, number: int, neighbours: Iterable[Fact] = (), known: Iterable[Fact] = ()
) -> Iterator[Probe]:
    """Builds the probes of a relation edit from the relation's name.

    Args:
        number: number of the case. It chooses three of the wordings that fit any relation, so that
            the cases take turns with them.
        neighbours: facts of the relation about other subjects, which should stay.
        known: other facts of the subject.
    """
    fact, label = entity.fact, entity.fact.relation.name
    wordings = relations.generic()
    chosen = [wordings[(number + step) % len(wordings)] for step in (0, 3, 6)]
    groups: tuple[tuple[Group, Group, Sequence[relations.Wording]], ...] = (
        ("efficacy", "removal", [STATEMENT]),
        ("paraphrase", "removal paraphrase", chosen),
    )
    for adding, removing, group_wordings in groups:
        for wording in group_wordings:
            new, old = (
                wording.filled(fact.subject, entity.target),
                wording.filled(fact.subject, fact.object),
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


# seven parameters, since a case has seven parts, and most formats lack some of them
def edit_case(
    id: str,
    entity: EditRequest,
    probes: Iterable[Probe],
    relation: EditRequest | None = None,
    generation: tuple[str, ...] = (),
    stated: Iterable[str] = (),
    others: tuple[EditRequest, ...] = (),
) -> EditCase:
    """Builds a case and lists what it lacks.

    Args:
        stated: what the record itself says that it lacks. Each group without a probe is added.
    """
    probes = tuple(probes)
    present = {(probe.perspective, probe.group) for probe in probes}
    sides = {"entity"} if relation is None else {"entity", "relation"}
    lacks = [words for key, words in LACKS.items() if key[0] in sides and key not in present]
    if not generation:
        lacks.append(GENERATION)
    if relation is None:
        lacks.append(RELATION_SIDE)
    return EditCase(
        id, entity, relation, probes, generation, tuple(dict.fromkeys((*stated, *lacks))), others
    )
