"""From an ablation's outcomes to Scores, shares and paired differences, overall and by kind."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._ablation import BUDGETS, Outcomes
from experiments._listed_editors import BOTH
from experiments._run import RunFolder, console
from experiments._tables import percent, plain_table, write_rows

if TYPE_CHECKING:
    import numpy as np

    from experiments.ablate_attention import Config
    from kedit.results.scores import EditScore
    from kedit.stats import Interval

ALL = "all"
SCORE = "Score"
# what is printed beside it; tables on disk and the figure have the shares
SUMMARIES = ("by success", "by magnitude", "gained", "kept")
FEWEST = 5  # cases of a kind, for a row of its own


class Line(NamedTuple):
    """An arm on some of the cases: its Score and shares, and how its Score differs from "both".

    Args:
        kind: of relation; ALL for all cases.
        values: the Score, SUMMARIES and the shares by name, each a mean over the draws of heads.
        difference: Score of "both" minus this one's; None for "both" itself.
        p: of that difference.
        n_failed: edits in trouble, over all draws.
    """

    budget: str
    kind: str
    arm: str
    values: "Mapping[str, Interval]"
    difference: "Interval | None"
    p: float
    n_cases: int
    n_failed: int


def finish(
    config: "Config",
    folder: RunFolder,
    before: "Sequence[EditScore]",
    told: Mapping[str, Sequence[str]],
    outcomes: Outcomes,
) -> None:
    """Tables and figure into the folder; the tables to the screen."""
    from rich.text import Text

    from figures.ablation import ablation
    from figures.style import Source, save

    lines = list(_lines(config, before, told, outcomes))
    folder.write_json(
        "ablation.json", {"editors": told, "lines": [_record(line) for line in lines]}
    )
    write_rows(folder.path / "ablation.csv", [_record(line) for line in lines])
    screen = console(160)
    for budget, name in zip(BUDGETS, ("as they were made", "at equal norms"), strict=True):
        own = [line for line in lines if line.budget == budget]
        shown = (SCORE, *SUMMARIES)
        table = plain_table(
            f"{config.perspective} edits {name}: {config.model}",
            "",
            ("", *shown, f"{BOTH} − this", "p", "failed", "n"),
        )
        for kind in dict.fromkeys(line.kind for line in own):
            table.add_row(Text(kind, style="italic"))
            for line in (line for line in own if line.kind == kind):
                p = "" if line.difference is None else "-"
                if line.p == line.p:
                    p = f"{line.p:.2g}"
                ends = [percent(line.difference), p]
                cells = [percent(line.values[one]) for one in shown]
                counts = [str(line.n_failed), str(line.n_cases)]
                table.add_row(f" {line.arm}", *cells, *ends, *counts)
        screen.print(table)
    screen.print(
        "Percent, 95 % bootstrap intervals over cases; both − this: difference of the Scores, "
        f"paired; seed {config.seed}."
    )
    screen.print(f"Everything is in {folder.path}", soft_wrap=True)
    drawn = {
        (line.budget, line.kind, line.arm): {
            name: interval.floats(100)
            for name, interval in line.values.items()
            if name not in SUMMARIES
        }
        for line in lines
    }
    counts = {line.kind: line.n_cases for line in lines}
    source = Source(config.model, f"{config.perspective} edits; seed {config.seed}")
    save(ablation(drawn, counts, source), folder.path, "ablation")


def _lines(
    config: "Config",
    before: "Sequence[EditScore]",
    told: Mapping[str, Sequence[str]],
    outcomes: Outcomes,
) -> Iterator[Line]:
    from kedit.stats import other_sign, row_interval

    for budget in BUDGETS:
        for kind, places in _kinds(before).items():
            rows = {
                arm: _rows(config, before, [outcomes[one, budget] for one in ones], places)
                for arm, ones in told.items()
            }
            for arm, ones in told.items():
                gap = rows[BOTH][SCORE] - rows[arm][SCORE]
                own = [outcomes[one, budget][place] for one in ones for place in places]
                yield Line(
                    budget,
                    kind,
                    arm,
                    {name: row_interval(row) for name, row in rows[arm].items()},
                    None if arm == BOTH else row_interval(gap),
                    float("nan") if arm == BOTH else other_sign(gap),
                    len(places),
                    sum(bool(one.trouble) for one in own),
                )


def _kinds(before: "Sequence[EditScore]") -> dict[str, list[int]]:
    """The places of all cases, then of each kind's, if it has enough."""
    kinds: dict[str, list[int]] = {ALL: list(range(len(before)))}
    for name in sorted({score.kind for score in before} - {""}):
        kinds[name] = [place for place, score in enumerate(before) if score.kind == name]
    return {name: own for name, own in kinds.items() if name == ALL or len(own) >= FEWEST}


def _rows(
    config: "Config",
    before: "Sequence[EditScore]",
    draws: "Sequence[Sequence[Any]]",
    places: Sequence[int],
) -> "dict[str, np.ndarray]":
    """Score and shares over all cases and over each draw of them; means over the draws of heads."""
    import numpy as np

    from kedit.scoring.summary import LIFTS, Key, part_name, shares

    old = [before[place] for place in places]
    scores = [Key(config.perspective, "Score", way) for way in LIFTS]
    each = []
    for outcomes in draws:
        new = [outcomes[place].counted(before[place]) for place in places]
        by_success, by_magnitude, made_of = shares(old, new, scores, seed=config.seed)
        sums = (by_success.score, by_magnitude.score, made_of.generalisation, made_of.locality)
        rows = {SCORE: made_of.score, **dict(zip(SUMMARIES, sums, strict=True))}
        each.append(rows | {part_name(part): row for part, row in made_of.parts.items()})
    return {name: np.mean([one[name] for one in each], axis=0) for name in each[0]}


def _record(line: Line) -> dict[str, Any]:
    return {
        "budget": line.budget,
        "kind": line.kind,
        "arm": line.arm,
        "n_cases": line.n_cases,
        "failed": line.n_failed,
        "p": line.p if line.p == line.p else None,
        **_numbers(line),
    }


def _numbers(line: Line) -> dict[str, float | None]:
    """Means and bounds under names of their own."""
    named = dict(line.values)
    if line.difference is not None:
        named[f"{BOTH} - this"] = line.difference
    return {
        column: value
        for name, interval in named.items()
        for column, value in interval.named(name).items()
    }
