"""Settings that are tried, the same number of them for every editor, and the best of them."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._edit_cases import Arm, Outcome
from experiments._listed_editors import split
from experiments._run import RunFolder, console
from experiments._tables import percent, place_of, plain_table, write_rows

if TYPE_CHECKING:
    from experiments.tune_editors import Config
    from figures.frontier import Place
    from kedit.facts import EditCase
    from kedit.results.scores import EditScore
    from kedit.scoring.summary import Key
    from kedit.stats import Interval

FILE = "tuned.json"
WIDEST = 3  # layers that are written together
# what is tried of a field that an editor has; "layers" and "layer" come from the model's depth
SPACE: dict[str, list[Any]] = {
    "training.clamp": [0.5, 1.0, 2.0],
    "training.lr": [0.1, 0.3],
    "weight": [30.0, 1e2, 3e2, 1e3, 3e3],
    "keep": [0.3, 1.0, 3.0, 10.0],
    "neighbours": [0, 8],
    "family": [0, 128, 256],
    "wordings": [0, 4, 8],
    "lr": [1e-4, 2e-4, 5e-4],
    "bound": [5e-4, 1e-3, 2e-3],
    "scale": [0.5, 1.0, 1.5],
    "erase": [0.01, 0.03, 0.05],
    "write": [0.01, 0.03, 0.05],
}


class Tried(NamedTuple):
    """Settings and what they came to: the Score, that by magnitude alone, the mean share, what was
    kept against what was gained, and the shares by their names.
    """

    told: str
    score: "Interval"
    by_magnitude: "Interval"
    mean: "Interval"
    place: "Place"
    shares: "Mapping[Key, Interval]"
    n_failed: int


def one_sided(case: "EditCase", side: str) -> "EditCase":
    """The case with the probes of one side only: those of the other do not decide."""
    return replace(case, probes=tuple(one for one in case.probes if one.perspective == side))


def space_of(file: str, n_layers: int) -> dict[str, list[Any]]:
    """The values of every field; layers from a fifth of the depth to a last few.

    Raises:
        InputError: a file that is not an object of lists.
    """
    from kedit.errors import InputError

    lowest, highest = n_layers // 5, n_layers - 1
    windows = [
        tuple(range(start, start + width))
        for width in range(1, WIDEST + 1)
        for start in range(lowest, highest - width + 1)
    ]
    ours = SPACE | {"layers": windows}
    if not file:
        return ours
    try:
        own = json.loads(Path(file).read_text(encoding="utf-8"))
        if not all(isinstance(values, list) and values for values in own.values()):
            raise ValueError("a list of values is wanted for every field")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"--space {file}: {error}") from error
    return {
        field: [tuple(one) if isinstance(one, list) else one for one in values]
        for field, values in own.items()
    }


def tries(config: "Config", space: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """By editor, `config.tries` ways to tell it, all different: first as it is.

    A try is a draw of every field, so that all editors that have a field are tried with the same
    values of it, and those that have one layer with the middle one of the others' layers.

    Raises:
        InputError: an unknown editor, or one with fewer ways to be told.
    """
    from kedit.editors.registry import make_editor
    from kedit.editors.specs import parted
    from kedit.editors.variants import VARIANTS
    from kedit.errors import InputError

    found = {}
    for told in split(config.editors):
        made = make_editor(told, config.model, config.perspective)
        name, changes = parted(told)
        fixed = {change.partition("=")[0] for change in changes}
        if name in VARIANTS:
            fixed |= VARIANTS[name].fixed.keys()
        own: dict[str, None] = {told: None}
        for number in range(100 * config.tries):
            if len(own) == config.tries:
                break
            drawn = _drawn(space, f"{config.seed} {number}")
            one = "".join(
                f":{field}={value!r}" if not isinstance(value, str) else f":{field}={value}"
                for field, value in drawn.items()
                if _has(made, field) and field not in fixed
            )
            own.setdefault((told + one).replace(" ", ""))
        if len(own) < config.tries:
            raise InputError(f"{told}: --tries {config.tries}, but there are {len(own)} settings")
        found[told] = list(own)
    return found


def finish(
    config: "Config",
    folder: RunFolder,
    before: "Sequence[EditScore]",
    told: Mapping[str, Sequence[str]],
    outcomes: Mapping[Arm, Sequence[Outcome]],
) -> None:
    """The best of each editor, all tries as a table, and the figure; into folder and screen."""
    import numpy as np

    from figures.frontier import frontier
    from figures.style import Source, plural, save
    from figures.tuning import tuning

    came_to = {
        arm.told: _tried(config, arm.told, before, own) for arm, own in outcomes.items()
    }  # fmt: skip
    ranked = {
        name: sorted(
            (came_to[one] for one in ones),
            # where all Scores are 0, the mean share is highest for an edit that does nothing
            # (and what no case has a prompt for, NaN, decides nothing)
            key=lambda one: tuple(
                float(np.nan_to_num(each.mean)) for each in (one.score, one.by_magnitude, one.mean)
            ),
            reverse=True,
        )
        for name, ones in told.items()
    }
    folder.write_json(
        FILE,
        {
            "editors": {name: best.told for name, (best, *_) in ranked.items()},
            "perspective": config.perspective,
            "cases": config.cases,
            "n_cases": len(before),
            "tries": {name: [one.told for one in ones] for name, ones in ranked.items()},
        },
    )
    _write_csv(folder, ranked)
    edits = f"{config.perspective} edits of {plural(len(before), 'case')}"
    table = plain_table(
        f"The best of {config.tries} settings of each editor: {config.model}, {edits}",
        "",
        ("", "Score", "by magnitude", "mean share", "gained", "kept", "failed"),
    )
    for best, *_ in ranked.values():
        numbers = (best.score, best.by_magnitude, best.mean)
        ends = (best.place.generalisation, best.place.locality)
        table.add_row(best.told, *map(percent, (*numbers, *ends)), str(best.n_failed))
    drawn = {
        name: [(float(one.score.mean), float(one.mean.mean)) for one in ones]
        for name, ones in ranked.items()
    }
    source = Source(config.model, f"{edits}; seed {config.seed}")
    save(tuning(drawn, source), folder.path, "tuning")
    places = {name: [one.place for one in ones] for name, ones in ranked.items()}
    save(frontier({config.perspective: places}, source), folder.path, "frontier")
    screen = console(180)
    screen.print(table)
    screen.print(
        "Percent, 95 % bootstrap intervals over cases; the best of several tries looks better than "
        "it is. To take them on to other cases:"
    )
    again = f"python -m experiments.compare_editors --editors {folder.path / FILE}"
    screen.print(again, highlight=False, soft_wrap=True)


def _has(made: Any, field: str) -> bool:
    first, *rest = field.split(".")
    if not is_dataclass(made) or first not in {one.name for one in fields(made)}:
        return False
    return not rest or _has(getattr(made, first), ".".join(rest))


def _drawn(space: Mapping[str, Sequence[Any]], seed: str) -> dict[str, Any]:
    """A value of every field, drawn by its name, so that other fields change nothing of it."""
    drawn = {
        field: random.Random(f"{seed} {field}").choice(values) for field, values in space.items()
    }
    if "layers" in drawn:
        drawn.setdefault("layer", drawn["layers"][len(drawn["layers"]) // 2])
    return drawn


def _tried(
    config: "Config", told: str, before: "Sequence[EditScore]", outcomes: Sequence[Outcome]
) -> Tried:
    from kedit.scoring.summary import BY_ALL, BY_MAGNITUDE, Key, shares
    from kedit.stats import row_interval

    after = [one.counted(old) for one, old in zip(outcomes, before, strict=True)]
    scores = [Key(config.perspective, "Score", way) for way in (BY_ALL, BY_MAGNITUDE)]
    found, by_magnitude = shares(before, after, scores, seed=config.seed)
    return Tried(
        told,
        row_interval(found.score),
        row_interval(by_magnitude.score),
        row_interval(found.mean),
        place_of(found),
        {part: row_interval(row) for part, row in found.parts.items()},
        sum(bool(one.trouble) for one in outcomes),
    )


def _write_csv(folder: RunFolder, ranked: Mapping[str, Sequence[Tried]]) -> None:
    """A line for each try, the best of each editor first."""
    from kedit.scoring.summary import part_name

    lines = []
    for name, ones in ranked.items():
        for place, one in enumerate(ones):
            numbers = {
                "Score": one.score, "Score by magnitude": one.by_magnitude, "mean share": one.mean
            }  # fmt: skip
            numbers |= {part_name(key): interval for key, interval in one.shares.items()}
            line = {"editor": name, "place": place + 1, "told": one.told, "failed": one.n_failed}
            for what, interval in numbers.items():
                line |= interval.named(what)
            lines.append(line)
    write_rows(folder.path / "tries.csv", lines)
