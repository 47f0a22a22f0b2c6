"""Which requests MEND practises: every case of a benchmark, from both sides, in words."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from kedit.data.choose import cases_source, usable_cases
from kedit.errors import InputError
from kedit.facts import EditCase, EditRequest, Perspective

SIDES: tuple[Perspective, ...] = ("entity", "relation")
WORDINGS, NEIGHBOURS = 3, 6  # of each case at most, drawn once


class Said(NamedTuple):
    """A prompt and what follows it."""

    prompt: str
    answer: str


@dataclass(frozen=True)
class Material:
    """What one request can be practised with.

    Args:
        wordings: of the request in other words, with its target.
        neighbours: where everything is to stay; "" for an answer that nobody knows.
    """

    id: str
    request: EditRequest
    wordings: tuple[Said, ...]
    neighbours: tuple[Said, ...]


def materials(cases: Sequence[EditCase], sides: Sequence[Perspective], seed: int) -> list[Material]:
    """Of every case and side that has other wordings or neighbours, in the order of the cases.

    Where a file holds edits alone, the templates of other edits of the relation are the other
    wordings, and other edits of the same relation and object the neighbours. Of records with
    several edits, whose probes are of all of them, none is made.
    """
    draw = random.Random(seed)
    alike: dict[tuple[str, str], list[EditCase]] = {}
    templates: dict[str, list[str]] = {}
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
    return [one for one in found if one.wordings and one.neighbours]


def _material(
    case: EditCase,
    side: Perspective,
    templates: Sequence[str],
    near: Sequence[EditCase],
    draw: random.Random,
) -> Material:
    """The case's own wordings and neighbours, and what it borrows from others.

    Args:
        templates: of other edits of the relation.
        near: edits of the same relation and object.
    """
    request, fact = case.request(side), case.entity.fact
    wordings = _said(case, side, ("paraphrase",))
    if not wordings and side == "entity":
        wordings = [
            Said(replace(fact, template=text, relation_words=()).prompt, request.target)
            for text in draw.sample(templates, min(WORDINGS, len(templates)))
        ]
    neighbours = _said(case, side, ("neighborhood", "other relations"))
    if side == "entity":
        neighbours += [
            Said(other.entity.fact.prompt, other.entity.fact.object)
            for other in draw.sample(near, min(WORDINGS, len(near)))
            if other.entity.fact.subject != fact.subject
        ]
    draw.shuffle(neighbours)
    return Material(
        f"{case.id} {side}", request, tuple(wordings[:WORDINGS]), tuple(neighbours[:NEIGHBOURS])
    )


def split(
    found: Sequence[Material], exclude: Iterable[EditCase], n_held_out: int, seed: int
) -> tuple[list[Material], list[Material]]:
    """To train on, and `n_held_out` to validate with; no subject is in both, and no subject of
    `exclude` in either.
    """
    scored = {case.entity.fact.subject for case in exclude}
    by_subject: dict[str, list[Material]] = {}
    for one in found:
        if one.request.fact.subject not in scored:
            by_subject.setdefault(one.request.fact.subject, []).append(one)
    subjects = list(by_subject)
    random.Random(seed).shuffle(subjects)
    train: list[Material] = []
    held_out: list[Material] = []
    for subject in subjects:
        (held_out if len(held_out) < n_held_out else train).extend(by_subject[subject])
    return train, held_out


@dataclass(frozen=True)
class Requests:
    """What is trained on, and what is validated with.

    Args:
        skipped: why other records cannot be used, by their places.
        about: where they come from, for the recipe that the network's file tells.
    """

    train: Sequence[Material]
    held_out: Sequence[Material]
    skipped: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)


# six parameters: the cases, those that are scored elsewhere, and how both are parted
def requests_for(
    cases: Sequence[EditCase],
    *,
    exclude: Iterable[EditCase] = (),
    sides: Sequence[Perspective] = SIDES,
    n_validate: int = 96,
    seed: int = 0,
    source: str = "the cases",
) -> Requests:
    """Requests of the cases to practise, without the subjects of `exclude`.

    Args:
        n_validate: at most so many, and a quarter, are validated with.
        source: what the cases are called where none can be used.

    Raises:
        InputError: nothing is left to train on or to validate with.
    """
    found = materials(cases, sides, seed)
    train, kept = split(found, exclude, min(n_validate, len(found) // 4), seed)
    if not train or not kept:
        raise InputError(
            f"{source}: {len(found)} edits with other wordings and neighbours, {len(train)} to "
            f"train on and {len(kept)} held out: at least one of each is wanted"
        )
    return Requests(train, kept)


# six parameters: as `requests_for`, of files
def read_requests(
    sources: str,
    model: str,
    *,
    exclude: str = "",
    sides: Sequence[Perspective] = SIDES,
    n_validate: int = 96,
    seed: int = 0,
) -> Requests:
    """As `requests_for`, of files or names of cases, with commas between.

    Args:
        model: by which "auto" is chosen (`kedit.data.choose.cases_source`).

    Raises:
        InputError: a file cannot be read, or as `requests_for`.
    """
    cases: list[EditCase] = []
    skipped: dict[str, str] = {}
    chosen = [cases_source(source, model) for source in sources.split(",")]
    for own, unused in map(usable_cases, chosen):
        cases, skipped = cases + own, skipped | unused
    left_out = [source for source in exclude.split(",") if source]
    scored = [case for source in left_out for case in usable_cases(source)[0]]
    found = requests_for(
        cases, exclude=scored, sides=sides, n_validate=n_validate, seed=seed, source=sources
    )
    # without their folders: where files lay is nobody's business
    about = {
        "cases": ",".join(Path(one).name for one in chosen),
        "exclude": ",".join(Path(one).name for one in left_out),
        "perspective": "both" if len(sides) > 1 else sides[0],
        "n_validate": n_validate,
    }
    return replace(found, skipped=skipped, about=about)


def _said(case: EditCase, side: Perspective, groups: tuple[str, ...]) -> list[Said]:
    return [
        Said(probe.prompt, probe.answer)
        for probe in case.probes
        if probe.perspective == side and probe.group in groups
    ]
