"""Chooses the requests that a MEND is trained on and validated with, from the cases of a benchmark.

Each request comes with its material: other wordings, and prompts about neighbours.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kedit.data.choose import cases_source, usable_cases
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Perspective

SIDES: tuple[Perspective, ...] = ("entity", "relation")
MAX_WORDINGS, MAX_NEIGHBOURS = 3, 6  # largest numbers per request, drawn once


class Said(NamedTuple):
    """A prompt and the answer that follows it."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Material:
    """A request with the prompts that it is trained or validated with.

    Args:
        id: the case's id and the side.
        wordings: other wordings of the request's prompt, with the target.
        neighbours: prompts whose predictions should stay, with their answers; an answer that is not
            known is "".
    """

    id: str
    request: EditRequest
    wordings: tuple[Said, ...]
    neighbours: tuple[Said, ...]


def materials(cases: Sequence[EditCase], sides: Sequence[Perspective], seed: int) -> list[Material]:
    """Returns the material of every case and side that has other wordings and neighbours.

    On the entity side, a case without paraphrases gets the templates of other edits of its
    relation, and prompts of other edits with the same relation and object are added to its
    neighbours. So a file that has only edits can be used too. Cases of several edits are left out,
    because their probes do not belong to a single edit.

    Args:
        seed: seed of the draw of wordings and neighbours.
    """
    draw = random.Random(seed)
    alike: dict[tuple[str, str], list[EditCase]] = {}  # by relation and object
    templates: dict[str, list[str]] = {}  # by relation
    for case in cases:
        fact = case.entity.fact
        if fact.relation.id:
            alike.setdefault((fact.relation.id, fact.object), []).append(case)
            texts = templates.setdefault(fact.relation.id, [])
            if fact.template not in texts:
                texts.append(fact.template)
    found = []
    for case in cases:
        fact = case.entity.fact
        others = [text for text in templates.get(fact.relation.id, ()) if text != fact.template]
        near = alike.get((fact.relation.id, fact.object), ())
        for side in sides if not case.others else ():
            if side == "entity" or case.relation is not None:
                found.append(_material(case, side, others, near, draw))
    return [material for material in found if material.wordings and material.neighbours]


def _material(
    case: EditCase,
    side: Perspective,
    templates: Sequence[str],
    near: Sequence[EditCase],
    draw: random.Random,
) -> Material:
    """Builds the material of a case and side, from its probes and from other cases.

    Args:
        templates: templates of other edits of the relation.
        near: cases with the same relation and object.
    """
    request, fact = case.request(side), case.entity.fact
    wordings = _said(case, side, ("paraphrase",))
    if not wordings and side == "entity":
        wordings = [
            Said(replace(fact, template=text, relation_words=()).prompt, request.target)
            for text in draw.sample(templates, min(MAX_WORDINGS, len(templates)))
        ]
    neighbours = _said(case, side, ("neighborhood", "other relations"))
    if side == "entity":
        neighbours += [
            Said(other.entity.fact.prompt, other.entity.fact.object)
            for other in draw.sample(near, min(MAX_WORDINGS, len(near)))
            if other.entity.fact.subject != fact.subject
        ]
    draw.shuffle(neighbours)
    return Material(
        f"{case.id} {side}",
        request,
        tuple(wordings[:MAX_WORDINGS]),
        tuple(neighbours[:MAX_NEIGHBOURS]),
    )


def split(
    found: Sequence[Material], exclude: Iterable[EditCase], n_held_out: int, seed: int
) -> tuple[list[Material], list[Material]]:
    """Splits materials into those to train on and those to validate with, without common subjects.

    Args:
        exclude: cases whose subjects are in neither part.
        n_held_out: number of materials to validate with; a little more, because all materials of a
            subject are in the same part.
        seed: seed of the split.
    """
    excluded = {case.entity.fact.subject for case in exclude}
    by_subject: dict[str, list[Material]] = {}
    for material in found:
        subject = material.request.fact.subject
        if subject not in excluded:
            by_subject.setdefault(subject, []).append(material)
    subjects = list(by_subject)
    random.Random(seed).shuffle(subjects)
    train: list[Material] = []
    held_out: list[Material] = []
    for subject in subjects:
        (held_out if len(held_out) < n_held_out else train).extend(by_subject[subject])
    return train, held_out


@dataclass(frozen=True)
class Requests:
    """Requests to train a MEND on, and held-out requests to validate it with.

    Args:
        train: requests to train on.
        held_out: requests to validate with.
        skipped: why other records cannot be used, by the names of the records.
        about: where the requests come from; saved with the recipe in the network's file.
    """

    train: Sequence[Material]
    held_out: Sequence[Material]
    skipped: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


# six parameters: the cases, those to leave out, and how the rest is split
def requests_for(
    cases: Sequence[EditCase],
    *,
    exclude: Iterable[EditCase] = (),
    sides: Sequence[Perspective] = SIDES,
    n_validate: int = 96,
    seed: int = 0,
    source: str = "the cases",
) -> Requests:
    """Returns the requests of the cases, split into those to train on and those to validate with.

    Args:
        exclude: cases that are scored later; their subjects are left out.
        sides: the sides from which the cases are edited.
        n_validate: number of requests to validate with, at most a quarter of all.
        seed: seed of the split, and of the draw of wordings and neighbours.
        source: the name of the cases in error messages.

    Raises:
        InputError: nothing is left to train on or to validate with.
    """
    found = materials(cases, sides, seed)
    train, held_out = split(found, exclude, min(n_validate, len(found) // 4), seed)
    if not train or not held_out:
        raise InputError(
            f"{source}: {len(found)} edits with other wordings and neighbours, {len(train)} to "
            f"train on and {len(held_out)} held out; there must be at least one of each"
        )
    return Requests(train, held_out)


# six parameters: like `requests_for`
def read_requests(
    sources: str,
    model: str,
    *,
    exclude: str = "",
    sides: Sequence[Perspective] = SIDES,
    n_validate: int = 96,
    seed: int = 0,
) -> Requests:
    """Reads cases, and returns their requests like `requests_for`.

    Args:
        sources: files or names of cases, separated by commas.
        model: name of the model, which decides what "auto" means; see
            `kedit.data.choose.cases_source`.
        exclude: files or names of cases that are scored later, separated by commas.
        sides, n_validate, seed: see `requests_for`.

    Raises:
        InputError: a file cannot be read, or nothing is left to train on or to validate with.
    """
    cases: list[EditCase] = []
    skipped: dict[str, str] = {}
    chosen = [cases_source(source, model) for source in sources.split(",")]
    for usable, unused in map(usable_cases, chosen):
        cases, skipped = cases + usable, skipped | unused
    left_out = [source for source in exclude.split(",") if source]
    scored = [case for source in left_out for case in usable_cases(source)[0]]
    found = requests_for(
        cases, exclude=scored, sides=sides, n_validate=n_validate, seed=seed, source=sources
    )
    # without their folders: the network's file may be published, the paths of a machine should not
    about = {
        "cases": ",".join(Path(source).name for source in chosen),
        "exclude": ",".join(Path(source).name for source in left_out),
        "perspective": "both" if len(sides) > 1 else sides[0],
        "n_validate": n_validate,
    }
    return replace(found, skipped=skipped, about=about)


def _said(case: EditCase, side: Perspective, groups: tuple[str, ...]) -> list[Said]:
    """Returns the prompts and answers of a case's probes of these groups."""
    return [
        Said(probe.prompt, probe.answer)
        for probe in case.probes
        if probe.perspective == side and probe.group in groups
    ]
