"""From what single facts answered to means, tables and figures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments._head_questions import CUTS, RANDOM, TOGETHER, Asked
from experiments._run import RunFolder, console
from experiments._tables import listed, plain_table, write_rows

if TYPE_CHECKING:
    from experiments.ask_heads import Config
    from kedit.heads import Head
    from kedit.stats import Interval
    from probes.decoding import Decoded

Answers = Sequence[Mapping[str, Any]]


def finish(config: "Config", folder: RunFolder, asked: Asked) -> None:
    """The tables, the figures, and the heads' table to the screen.

    Raises:
        InputError: no fact could be asked about.
    """
    from figures import questions
    from figures.style import Study, save
    from kedit.errors import InputError

    heads, answers = asked.heads, asked.answers
    if not answers:
        raise InputError(f"no fact could be asked about: see {folder.path}/records.jsonl")
    study = Study(len(answers), f"the {config.corrupt}’s words replaced by others", config.metric,
                  config.seed, config.model)  # fmt: skip
    panels = _panels(config, heads, answers)
    write_rows(folder.path / "heads.csv", _head_rows(panels, answers))
    write_rows(folder.path / "ov.csv", list(_ov_rows(answers)))
    save(questions.answers(panels, study), folder.path, "heads")

    curves = {name: _mean([one["knockout"][name] for one in answers if name in one["knockout"]],
                          config.seed)
              for name in CUTS if any(name in one["knockout"] for one in answers)}  # fmt: skip
    write_rows(folder.path / "knockout.csv", _curve_rows(curves, answers))
    clean = replace(study, corruption="")
    save(questions.knockouts(curves, config.window, clean), folder.path, "knockout")

    paths = _path_effects(config, heads, answers)
    write_rows(folder.path / "paths.csv", _path_rows(paths))
    means = {sender: {name: float(one.mean) for name, one in own.items()}
             for sender, own in paths.items()}  # fmt: skip
    save(questions.paths(means, study), folder.path, "paths")
    if asked.decoded:
        write_rows(folder.path / "decoding.csv", _decoded_rows(asked.decoded))
        _draw_decoding(config, folder, asked)
    console().print(_table(config, heads, panels, answers))
    console().print(f"Everything is in {folder.path}", soft_wrap=True)


def _mean(rows: Sequence[Any], seed: int) -> "Interval":
    import numpy as np

    from kedit.stats import bootstrap_ratio

    return bootstrap_ratio(np.array(rows, dtype=float), np.ones(len(rows)), seed=seed)


def _panels(
    config: "Config", heads: "Sequence[Head]", answers: Answers
) -> "dict[str, dict[str, Interval]]":
    """Each question's means, by head."""
    from figures.style import EFFECT_UNITS

    unit = EFFECT_UNITS[config.metric]
    names = [str(head) for head in heads]
    panels = {
        "direct effect (logits)": {
            name: _mean([one["heads"][name]["direct"] for one in answers], config.seed)
            for name in names
        }
    }
    for stand_in in ("mean", "resample"):
        panels[f"ablated, {stand_in} ({unit})"] = {
            name: _mean(
                [one["ablated"][stand_in][name][config.metric] for one in answers], config.seed
            )
            for name in (*names, TOGETHER, RANDOM)
        }
    return panels


def _path_effects(
    config: "Config", heads: "Sequence[Head]", answers: Answers
) -> "dict[str, dict[str, Interval]]":
    from kedit.forward.metrics import METRICS

    metric = METRICS.index(config.metric)
    return {
        str(head): {
            receiver: _mean([one["paths"][str(head)][receiver][metric] for one in answers],
                            config.seed)
            for receiver in answers[0]["paths"][str(head)]
        }
        for head in heads
    }  # fmt: skip


def _head_rows(
    panels: "Mapping[str, Mapping[str, Interval]]", answers: Answers
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"head": head, "question": question, "facts": len(answers), **listed(interval._asdict())}
        for question, own in panels.items()
        for head, interval in own.items()
    ]
    for head in answers[0]["heads"]:
        median, low, high = _ranks(head, answers)
        question = "OV rank of the answer (median, quartiles)"
        ranks = {"mean": median, "low": low, "high": high}
        rows.append({"head": head, "question": question, "facts": len(answers), **ranks})
    return rows


def _ov_rows(answers: Answers) -> Iterator[dict[str, Any]]:
    """A line for each fact and head: what its OV circuit writes for the subject."""
    for one in answers:
        for head, told in one["heads"].items():
            yield {
                "head": head,
                "prompt": one["prompt"],
                "relation": one["relation"],
                "rank of the answer": told["ov rank"],
                "writes": " ".join(map(repr, told["ov writes"])),
            }


def _ranks(head: str, answers: Answers) -> tuple[float, float, float]:
    import numpy as np

    ranks = [one["heads"][head]["ov rank"] for one in answers]
    low, median, high = np.quantile(ranks, [0.25, 0.5, 0.75])
    return float(median), float(low), float(high)


def _curve_rows(curves: "Mapping[str, Interval]", answers: Answers) -> list[dict[str, Any]]:
    return [
        {"cut": name, "layer": layer, "facts": sum(name in one["knockout"] for one in answers),
         **{bound: float(values[layer])
            for bound, values in zip(("mean", "low", "high"), curve, strict=True)}}
        for name, curve in curves.items()
        for layer in range(len(curve.mean))
    ]  # fmt: skip


def _path_rows(paths: "Mapping[str, Mapping[str, Interval]]") -> list[dict[str, Any]]:
    return [
        {"from": sender, "to": receiver, **listed(interval._asdict())}
        for sender, own in paths.items()
        for receiver, interval in own.items()
    ]


def _decoded_rows(decoded: "Mapping[str, Sequence[Decoded]]") -> list[dict[str, Any]]:
    return [
        {"held out": split, "site": one.site, "layer": one.layer,
         "head": "" if one.head is None else one.head, "chance": one.chance,
         **{f"{name} {bound}": value
            for name in ("accuracy", "control", "selectivity")
            for bound, value in listed(getattr(one, name)._asdict()).items()}}
        for split, found in decoded.items()
        for one in found
    ]  # fmt: skip


def _draw_decoding(config: "Config", folder: RunFolder, asked: Asked) -> None:
    """By site over layers; heads are left to the table."""
    import numpy as np

    from figures.questions import decoding
    from figures.style import SITES, Source, plural, save
    from kedit.stats import Interval

    drawn: dict[str, dict[str, tuple[Interval, Interval]]] = {}
    for split, found in asked.decoded.items():
        drawn[split] = {}
        for site in SITES:
            own = [one for one in found if one.site == site and one.head is None]
            if own:
                accuracy, control = (
                    Interval(*(np.array(values) for values in zip(*column, strict=True)))
                    for column in ([one.accuracy for one in own], [one.control for one in own])
                )
                drawn[split][site] = accuracy, control
    chance = next(iter(asked.decoded.values()))[0].chance
    source = Source(config.model, f"n = {plural(asked.n_decoded, 'fact')}; seed {config.seed}")
    save(decoding(drawn, chance, source), folder.path, "decoding")


def _table(
    config: "Config",
    heads: "Sequence[Head]",
    panels: "Mapping[str, Mapping[str, Interval]]",
    answers: Answers,
):
    from figures.style import estimate, plural

    relations = len({one["relation"] for one in answers})
    clean = sum(one["clean"][config.metric] for one in answers) / len(answers)
    table = plain_table(
        "What the heads do",
        f"{plural(len(answers), 'fact')} of {plural(relations, 'relation')}, none of which the "
        f"heads were chosen on; {config.metric} {clean:.2f} clean. Means, 95 % bootstrap intervals "
        f"over facts (seed {config.seed}); OV rank: of the answer, median (quartiles), were the "
        "head to read the subject's last token alone.",
        ("head", *panels, "OV rank"),
    )
    for name in (*map(str, heads), TOGETHER, RANDOM):
        cells = [estimate(*own[name].floats()) if name in own else "" for own in panels.values()]
        ranks = ""
        if name in answers[0]["heads"]:
            median, low, high = _ranks(name, answers)
            ranks = f"{median:.0f} ({low:.0f}, {high:.0f})"
        table.add_row(name, *cells, ranks)
    return table
