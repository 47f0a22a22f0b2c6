"""From a comparison's outcomes to its tables, tests and figure."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._edit_cases import SIDES, Arm, Outcome
from experiments._papers_table import papers_markdown, papers_rows, papers_table
from experiments._run import RunFolder, console, write_whole
from experiments._tables import FIELDS, INTERVALS, listed, percent, place_of, plain_table
from kedit.scoring.summary import LIFTS

if TYPE_CHECKING:
    from experiments.compare_editors import Config
    from figures.frontier import Place
    from kedit.results.scores import EditScore
    from kedit.scoring.summary import Key, Measure
    from kedit.stats import Paired

TESTED = ("success", "magnitude")
# what is printed, from top to bottom; tables on disk have every statistic
PRINTED = {
    "success": "success",
    "magnitude": "magnitude",
    "reciprocal rank": "1/rank among all relations",
    "says it": "says it",
    **dict.fromkeys(LIFTS, "Scores"),
    "gain": "Scores",
}
SURE = 0.05
MIB = 2**20


@dataclass(frozen=True)
class Verdict:
    """All there is to say of an arm.

    Args:
        found: its measures, before and after.
        place: what it keeps and what it gains.
        tests: of its values against the first arm's, case by case, and of its Score, by bootstrap;
            empty for the first arm itself.
        adjusted: their p-values (Holm): for all tests of one edited side together, and for all
            Scores of it.
        costs: named numbers: seconds, memory, drift, norm; None where nothing was measured.
    """

    arm: Arm
    found: "Sequence[Measure]"
    place: "Place"
    tests: "Mapping[Key, Paired]"
    adjusted: "Mapping[Key, float]"
    costs: Mapping[str, float | None]


class Line(NamedTuple):
    """A row of a table: which part of it, what it is of, the value before, and a cell an arm."""

    part: str
    name: str
    before: str
    cells: list[str]


def _named(config: "Config", arm: Arm) -> str:
    """An editor as it was told, and whether its settings were chosen for the model by nobody."""
    from kedit.editors.specs import by_side, has_preset, parted

    sides = by_side(arm.told, "relation" if arm.side == "relation" else "entity")
    is_tuned = config.editors.endswith(".json") or all(
        has_preset(parted(one)[0], config.model, side) for side, one in sides.items() if one
    )
    return arm.told if is_tuned else f"{arm.told} (untuned)"


def finish(
    config: "Config",
    folder: RunFolder,
    before: "Sequence[EditScore]",
    outcomes: Mapping[Arm, Sequence[Outcome]],
    perplexity: float,
) -> None:
    """Tables, tests and figure into the folder; the tables to the screen.

    Args:
        perplexity: of the held-out text, before any edit.
    """
    from figures.compare import compared
    from figures.frontier import frontier
    from figures.style import Source, edited_from, plural, save

    by_side: dict[str, list[Arm]] = {}
    for arm in outcomes:
        by_side.setdefault(arm.side, []).append(arm)
    verdicts = {
        side: _verdicts(before, {arm: outcomes[arm] for arm in arms}, config.seed)
        for side, arms in by_side.items()
    }
    each = [verdict for ones in verdicts.values() for verdict in ones]
    folder.write_json("comparison.json", [_record(one) for one in each])
    _write_csv(folder, each)
    papers = papers_rows({(one.arm.side, one.arm.told): one.found for one in each})
    widest = max(map(len, verdicts.values()))
    screen, markdown = console(max(140, 50 + 20 * widest)), [papers_markdown(papers)]
    for side, ones in verdicts.items():
        lines = list(_lines(ones, perplexity))
        title = f"{edited_from(side)}: {config.model}, {plural(len(before), 'case')}"
        names = [_named(config, one.arm) for one in ones]
        screen.print(_shown(title, names, lines))
        markdown.append(_markdown(title, names, lines))
    screen.print(papers_table(papers))
    markdown.append(_explained(config, each))
    write_whole(folder.path / "comparison.md", "\n\n".join(markdown) + "\n")
    figure = compared(
        {side: {one.arm.told: one.found for one in ones} for side, ones in verdicts.items()},
        Source(config.model, f"seed {config.seed}"),
        {(one.arm.side, one.arm.told): int(one.costs["failed"] or 0) for one in each},
    )
    save(figure, folder.path, "comparison")
    places = {side: {one.arm.told: [one.place] for one in ones} for side, ones in verdicts.items()}
    source = Source(config.model, f"n = {plural(len(before), 'case')}; seed {config.seed}")
    save(frontier(places, source), folder.path, "frontier")
    screen.print(_explained(config, each), markup=False)
    screen.print(f"Everything is in {folder.path}", soft_wrap=True)


def _verdicts(
    before: "Sequence[EditScore]", outcomes: Mapping[Arm, Sequence[Outcome]], seed: int
) -> list[Verdict]:
    """Of the arms of one side, in their order."""
    import numpy as np

    from kedit.scoring.summary import BY_ALL, Key, by_case, changes, shares
    from kedit.stats import Paired, holm, other_sign, paired, row_interval

    counted = {
        arm: [one.counted(old) for one, old in zip(ones, before, strict=True)]
        for arm, ones in outcomes.items()
    }
    measured = {
        arm: changes(before, scores, None if arm.side == "together" else arm.side, seed=seed)
        for arm, scores in counted.items()
    }
    first, *others = outcomes
    keys = [one.key for one in measured[first] if one.key.statistic in TESTED]
    tests = {
        (arm, key): paired(by_case(counted[arm], key), by_case(counted[first], key), seed=seed)
        for arm in others
        for key in keys
    }
    sides = ["both", *SIDES] if first.side == "together" else [first.side]
    wanted = [Key(side, "Score", way) for side in sides for way in LIFTS]
    made_of = {
        (arm, score): own
        for arm, scores in counted.items()
        for score, own in zip(wanted, shares(before, scores, wanted, seed=seed), strict=True)
    }
    gaps = {
        (arm, score): own.score - made_of[first, score].score
        for (arm, score), own in made_of.items()
        if arm in others
    }
    scored = {both: Paired(row_interval(gap), other_sign(gap)) for both, gap in gaps.items()}
    adjusted = {}
    for family in (tests, scored):
        p_values = holm(np.array([test.p for test in family.values()]))
        adjusted |= dict(zip(family, p_values.tolist(), strict=True))
    tests |= scored
    return [
        Verdict(
            arm,
            measured[arm],
            place_of(made_of[arm, Key(sides[0], "Score", BY_ALL)]),
            {key: test for (one, key), test in tests.items() if one == arm},
            {key: p for (one, key), p in adjusted.items() if one == arm},
            _costs(outcomes[arm]),
        )
        for arm in outcomes
    ]


def _costs(outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    """Means over edits; what failed counts in the number of failures only."""
    whole = [one for one in outcomes if not one.trouble]

    def mean(values: "Sequence[float | None]") -> float | None:
        there = [value for value in values if value is not None]
        return sum(there) / len(there) if there else None

    memory = mean([one.memory for one in whole])
    return {
        "failed": float(len(outcomes) - len(whole)),
        "seconds an edit": mean([one.seconds for one in whole]),
        "MiB an edit": None if memory is None else memory / MIB,
        "perplexity": mean([one.perplexity for one in whole]),
        "KL a token (nats)": mean([one.kl for one in whole]),
        "norm of delta / weight": mean([one.norm for one in whole]),
    }


def _lines(verdicts: Sequence[Verdict], perplexity: float) -> Iterator[Line]:
    """What is printed of the arms of one side: by statistic, then costs."""
    side = verdicts[0].arm.side
    found = [{one.key: one for one in verdict.found} for verdict in verdicts]
    for statistic, part in PRINTED.items():
        for key, first in found[0].items():
            # a Score of the side that was not edited weighs what nobody asked for
            unasked = statistic in LIFTS and side not in (key.perspective, "together")
            if key.statistic != statistic or unasked:
                continue
            cells = []
            for verdict, own in zip(verdicts, found, strict=True):
                sure = verdict.adjusted.get(key, 1.0) < SURE
                cells.append(percent(own[key].after) + ("*" if sure else ""))
            name = f"{key.perspective} {key.group}"
            name += f" ({statistic})" if statistic in LIFTS else ""
            yield Line(part, name, percent(first.before), cells)
    for name in verdicts[0].costs:
        cells = ["-" if (cost := one.costs[name]) is None else f"{cost:.3g}" for one in verdicts]
        yield Line("costs", name, f"{perplexity:.3g}" if name == "perplexity" else "", cells)


def _shown(title: str, names: Sequence[str], lines: Sequence[Line]):
    from rich.text import Text

    table = plain_table(title, "", ("", "before", *names))
    for part, own in groupby(lines, key=lambda line: line.part):
        table.add_row(Text(part, style="italic"))
        for line in own:
            table.add_row(f" {line.name}", line.before, *line.cells)
        table.add_section()
    return table


def _markdown(title: str, names: Sequence[str], lines: Sequence[Line]) -> str:
    from kedit.markdown import escaped, table

    heads = ["", "", "before", *map(escaped, names)]
    body = ([line.part, line.name, line.before, *line.cells] for line in lines)
    return f"### {escaped(title)}\n\n{table(heads, body)}"


def _explained(config: "Config", verdicts: Sequence[Verdict]) -> str:
    from figures.style import plural
    from kedit.data.corpus import corpus_of

    first = verdicts[0].arm.told
    text = corpus_of(config.model, config.held_out, config.seed, held_out=True).name
    n_failed = sum(int(one.costs["failed"] or 0) for one in verdicts)
    return (
        f"Means in percent with {INTERVALS}, if there are two cases or more; -: nothing to "
        f"measure; perplexity and KL on {text}. Score: harmonic mean of what was gained of what "
        "there was to gain and of what was kept: by success (lifts), by magnitude (kept: 1 - how "
        "far a magnitude has moved), and by all of these; transfer: the share gained on the side "
        "that was not edited. "
        f"*: unlike {first}, p < {SURE} (sign flips over cases, Holm over one table; of Scores "
        "bootstrap draws of the cases, Holm over the Scores). "
        f"{plural(n_failed, 'edit')} failed (records.jsonl says why) and count as no edit. "
        f"Seed {config.seed}."
    )


def _record(verdict: Verdict) -> dict[str, Any]:
    return {
        "edited": verdict.arm.side,
        "editor": verdict.arm.told,
        "costs": dict(verdict.costs),
        "locality": listed(verdict.place.locality._asdict()),
        "generalisation": listed(verdict.place.generalisation._asdict()),
        "measures": [one.to_record() for one in verdict.found],
        "tests": list(_tests(verdict)),
    }


def _tests(verdict: Verdict) -> Iterator[dict[str, Any]]:
    for key, test in verdict.tests.items():
        bounds = listed(test.difference._asdict())
        bounds["difference"] = bounds.pop("mean")
        p_values = {"p": test.p, "p (Holm)": verdict.adjusted[key]}
        yield key._asdict() | bounds | listed(p_values)


def _write_csv(folder: RunFolder, verdicts: Sequence[Verdict]) -> None:
    arm_of = {id(one): {"edited": one.arm.side, "editor": one.arm.told} for one in verdicts}
    measured = [arm_of[id(one)] | measure.to_record() for one in verdicts for measure in one.found]
    tested = [arm_of[id(one)] | test for one in verdicts for test in _tests(one)]
    heads = ["edited", "editor"]
    for name, rows, fields in (
        ("comparison.csv", measured, [*heads, *FIELDS[1:]]),
        ("tests.csv", tested, [*heads, *(list(tested[0])[2:] if tested else [])]),
    ):
        text = io.StringIO()
        writer = csv.DictWriter(text, fields, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
        write_whole(folder.path / name, text.getvalue())
