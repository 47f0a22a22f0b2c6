"""What the edit benchmarks share: probes from a request and a prompt, and what a record lacks."""

from collections.abc import Iterable

from kedit.facts import EditCase, EditRequest, Group, Perspective, Probe, Relation

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


def wanted(request: EditRequest, group: Group, prompt: str) -> Probe:
    """Where the edit shall show: its target, before what the fact says now."""
    return Probe("entity", group, prompt, answer=request.target, rival=request.fact.object)


def kept(request: EditRequest, prompt: str) -> Probe:
    """A neighbour with the same true object, which the edit shall leave alone."""
    return Probe("entity", "neighborhood", prompt, answer=request.fact.object, rival=request.target)


def edit_case(
    id: str,
    entity: EditRequest,
    probes: Iterable[Probe],
    relation: EditRequest | None = None,
    generation: tuple[str, ...] = (),
    stated: Iterable[str] = (),
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
        id, entity, relation, probes, generation, tuple(dict.fromkeys((*stated, *lacks)))
    )
