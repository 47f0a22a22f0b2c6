"""Scoring the cases of a benchmark into a run folder: with progress, resume, and recorded skips."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._choose import in_turn
from experiments._facts import require_some, say_skipped
from experiments._finite import require_finite
from experiments._folder import key_of
from experiments._run import RunFolder, console
from kedit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from kedit.facts import EditCase
    from kedit.results.scores import EditScore
    from kedit.scoring.score import Scoring

BUILT = "results/build_rake/counterfact/rake.jsonl"
TOGETHER = 16  # cases scored at once: more saves no time, and less is lost when interrupted


def chosen(source: str, model: str) -> str:
    """Which cases "auto" stands for: the toy's own, or what build_rake made, or those built in."""
    if source != "auto":
        return source
    return "toy" if model == "toy" else BUILT if Path(BUILT).exists() else "builtin"


def benchmark(source: str) -> "tuple[list[EditCase], dict[str, str]]":
    """Every case that can be used, and why others cannot be, by their places in the file.

    Raises:
        RecordError: the file cannot be read, or none of its records can be used.
    """
    from kedit.data import read_cases
    from kedit.facts import EditCase

    cases, skipped = [], {}
    for one in read_cases(source):
        if isinstance(one, EditCase):
            cases.append(one)
        else:
            skipped[one.place] = one.reason
    require_some(source, cases, skipped)
    return cases, skipped


def labels(cases: "Sequence[EditCase]") -> tuple[str, ...]:
    """The names of all relations that the cases speak of: what a relation's rank is among."""
    named = (probe.label for case in cases for probe in case.probes if probe.label)
    return tuple(sorted(set(named)))


def spread(cases: "Sequence[EditCase]", limit: int, seed: int) -> "list[EditCase]":
    """`limit` cases, one of every relation in turn, drawn by `seed`; all as they are for 0."""
    if not limit:
        return list(cases)
    by_relation: dict[str, list[EditCase]] = {}
    for case in cases:
        by_relation.setdefault(case.entity.fact.relation.id, []).append(case)
    return in_turn(by_relation.values(), seed)[:limit]


class ToEdit(NamedTuple):
    """What is edited.

    Args:
        every: all cases that have what the sides need.
        cases: those of them to edit.
        skipped: why others cannot be, by their places or ids.
        sides: from which they are edited.
    """

    every: "list[EditCase]"
    cases: "list[EditCase]"
    skipped: dict[str, str]
    sides: list[str]


def to_edit(config: Any, sides: Sequence[str]) -> ToEdit:
    """Chooses the cases to edit; where none has a relation side, the entity's alone is edited.

    Args:
        config: with cases, limit, skip, probes and seed.
        sides: which are wanted (_edit_cases.Side): all but the entity's need a relation request.

    Raises:
        InputError: none is left, or no record has the side that is wanted.
    """
    from kedit.errors import InputError

    cases, skipped = benchmark(config.cases)
    say_skipped(config.cases, skipped)
    both = [case for case in cases if case.relation]
    if list(sides) != ["entity"] and not both:
        lacks = (
            f"no record of {config.cases} has a relation side, which is made from the relation's "
            "name: a field 'relation' has it (of CounterFact build_rake makes it)"
        )
        if "entity" not in sides:
            raise InputError(f"{lacks}; edits from the entity side need none")
        told = f"Edited from the entity side only: {lacks}."
        console().print(told, highlight=False, soft_wrap=True)
        sides = ["entity"]
    elif list(sides) != ["entity"]:
        skipped |= {case.id: "it has no relation side" for case in cases if not case.relation}
        cases = both
    wanted = config.skip + config.limit if config.limit else 0
    asked = spread(cases, wanted, config.seed)[config.skip :]
    if not asked:
        raise InputError(
            f"--skip {config.skip} leaves none of the {len(cases)} cases of {config.cases} to edit"
        )
    chosen = [fewer_probes(case, config.probes) for case in asked]
    return ToEdit(cases, chosen, skipped, list(sides))


def passage(model: "HookedTransformer", config: Any) -> "Tensor":
    """The held-out text whose perplexity is watched.

    Args:
        config: with held_out, chunks, window and seed.
    """
    from kedit.scoring.drift import held_out

    return held_out(model, config.held_out, config.chunks, config.seed, config.window)


def fewer_probes(case: "EditCase", limit: int) -> "EditCase":
    """The case with the first `limit` probes of each kind; all of them for 0."""
    from collections import Counter
    from dataclasses import replace

    if not limit:
        return case
    seen: Counter[tuple[str, str]] = Counter()
    kept = []
    for probe in case.probes:
        kind = (probe.perspective, probe.group)
        seen[kind] += 1
        if seen[kind] <= limit:
            kept.append(probe)
    return replace(case, probes=tuple(kept))


def score_cases(
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Sequence[EditCase]",
    scoring: "Scoring",
    n_texts: int,
) -> "list[EditScore]":
    """Scores of `cases`, in order; what the folder holds already is not done again.

    A case that cannot be scored is recorded with the reason and left out.

    Args:
        n_texts: of so many cases, the first ones, texts are generated.
    """
    from dataclasses import replace

    from kedit.results.scores import EditScore

    keys = {key_of(case): case for case in cases}
    with_texts = set(list(keys)[:n_texts])
    todo = [key for key in keys if key not in folder.records]
    with progress("cases") as bars:
        bar = bars.add_task("scoring", total=len(keys), completed=len(keys) - len(todo))
        for start in range(0, len(todo), TOGETHER):
            chunk = todo[start : start + TOGETHER]
            for texts in (True, False):
                part = [key for key in chunk if (key in with_texts) == texts]
                _score(
                    folder, model, {key: keys[key] for key in part}, replace(scoring, texts=texts)
                )
            bars.update(bar, advance=len(chunk))
    done = (folder.records[key] for key in keys)
    return [EditScore.from_record(record) for record in done if "skipped" not in record]


def scores_before(
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "Sequence[EditCase]",
    scoring: "Scoring",
) -> "dict[EditCase, EditScore]":
    """The cases that can be scored, with their scores before any edit.

    Raises:
        InputError: there are none.
    """
    from kedit.errors import InputError

    scores = {score.id: score for score in score_cases(folder, model, cases, scoring, 0)}
    usable = {case: scores[case.id] for case in cases if case.id in scores}
    if not usable:
        raise InputError(f"no case could be scored: {folder.path / 'records.jsonl'} says why")
    if len(usable) < len(cases):
        lost = next(case for case in cases if case not in usable)
        console().print(
            f"{len(cases) - len(usable)} of {len(cases)} cases cannot be scored and are left out "
            f"(records.jsonl says why). The first: {folder.records[key_of(lost)]['skipped']}"
        )
    return usable


def _score(
    folder: RunFolder,
    model: "HookedTransformer",
    cases: "dict[str, EditCase]",
    scoring: "Scoring",
) -> None:
    """All at once; where that fails, one by one, so that a bad record costs only itself."""
    from kedit.errors import InputError
    from kedit.scoring.score import own_words, score

    if not cases:
        return
    try:
        every = list(cases.values())
        scores = score(model, every, scoring, own_words(model, every))
        for case, one in zip(every, scores, strict=True):
            require_finite(case.id, one.to_record())
    except InputError:
        for key, case in cases.items():
            try:
                (alone,) = score(model, [case], scoring, own_words(model, [case]))
                folder.add(key, alone.to_record())
            except InputError as error:
                folder.add(key, {"id": case.id, "skipped": str(error)})
        return
    for key, one in zip(cases, scores, strict=True):
        folder.add(key, one.to_record())
