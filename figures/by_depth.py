"""Figures of several models side by side: effects, knockouts and write sites by relative depth.

Models have different numbers of layers, so layers are drawn at layer / last layer.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from figures._depth import MARKS, Curve, curve_legend, draw_curves, panels
from figures._models import (
    OWN_FACTS,
    listed,
    looks,
    of_models,
    require_alike,
    require_once,
)
from figures.curves import DASHES, LAST
from figures.neurons import HALVES
from figures.questions import cut_title
from figures.sites import POSITIONS
from figures.style import (
    SITES,
    effect_label,
    legend_above,
    metric_name,
    readable,
    site_name,
    styled,
)
from figures.trace import WINDOWS
from figures.traced import MAPPED
from kedit.forward.metrics import METRICS
from kedit.results.fact_answers import CUTS
from kedit.results.head_answers import HeadAnswers
from kedit.results.sites import SCORE, SiteFindings
from kedit.results.trace_averages import TraceAverages
from kedit.stats import Interval
from kedit.tables import plural

HEADS = "z"
ANSWER = "last token, or mask"  # where the answer is read: the last bucket
TOKENS = {LAST: "last corrupted token", ANSWER: ANSWER}  # bucket: label of its row
DEPTH = " Relative depth: layer / last layer."


@styled
def effects(found: Sequence[TraceAverages]) -> Figure:
    """Draws average indirect effects: a column for each site and one for the strongest head.

    The upper row is at the last corrupted token, the lower row at the token where the answer is
    read. A model may have a result for each corrupted part. T5's encoder and decoder have curves of
    their own, each over its own depth.

    Raises:
        InputError: the facts were traced with different settings, or a part is there twice.
    """
    title = of_models("Average indirect effect by relative depth", [one.model for one in found])
    found = [one.of_tower(tower) for one in found for tower in one.towers]
    curves, shown = _effect_curves(found), looks(one.model for one in found)
    metric, corruption = found[0].metric, found[0].settings.corruption
    there = {curve.panel[1] for curve in curves}
    columns = {
        site: "strongest head" if site == HEADS else _windows(site, curves)
        for site in (*MAPPED, HEADS)
        if site in there
    }
    parts = [part for part in ("subject", "relation") if any(part in one.parts for one in found)]
    counts = {
        model: ", ".join(
            f"{one.counts.traced[part]} ({part})"
            for part in parts
            for one in found
            if one.model == model and part in one.parts
        )
        for model in shown
    }
    caption = (
        f"Corruption: {readable(corruption)}; metric: {metric_name(metric)}; seed "
        f"{listed(one.settings.seed for one in found)}; bands, lines at heads: 95\u00a0% bootstrap "
        f"intervals over facts.{DEPTH} Marks: the largest effect of a curve, of either sign, if "
        f"enough facts have such a token.{OWN_FACTS}"
    )
    if HEADS in columns:
        caption += " Strongest head: chosen and measured on the same facts."
    if any(one.settings.window > 1 for one in found):
        caption += WINDOWS
    figure, axes = panels(title, caption, TOKENS, columns)
    for row, label in zip(axes, TOKENS.values(), strict=True):
        row[0].set_ylabel(f"{label}\n{effect_label(metric)}")
    notes = {model: f"n = {n}" for model, n in counts.items()}
    curve_legend(figure, curves, shown, notes)
    dashes: list[dict[str, Any]] = [{"linestyle": DASHES[part]} for part in parts]
    handles = [Line2D([], [], color="grey", **dash) for dash in dashes]
    legend_above(figure, handles, [f"{part} corrupted ({MARKS[part]} marks)" for part in parts])
    draw_curves(axes, list(TOKENS), list(columns), curves, shown)
    return figure


def effect_rows(found: Sequence[TraceAverages]) -> list[dict[str, Any]]:
    """The numbers of `effects`, one row each."""
    found = [one.of_tower(tower) for one in found for tower in one.towers]
    return [row for curve in _effect_curves(found) for row in curve.rows("effect")]


def _effect_curves(found: Sequence[TraceAverages]) -> list[Curve]:
    """The curves of all models, and the strongest heads as curves of one layer."""
    require_alike(
        found,
        {
            "metric": lambda one: one.metric,
            "baseline": lambda one: one.baseline,
            "corruption": lambda one: one.settings.corruption,
            "scored answer": lambda one: one.settings.answer,
            "choice of facts": lambda one: f"keep_all={one.settings.keep_all}",
        },
    )
    require_once((one.model, f"the {part} corrupted") for one in found for part in one.parts)
    return [curve for one in found for curve in _effects_of(one)]


def _effects_of(found: TraceAverages) -> Iterator[Curve]:
    """The curves of one result."""
    metric = METRICS.index(found.metric)
    peaks = {(row["part"], row["grid"], row["bucket"]): row for row in found.rows()}
    for effect in found.effects:
        if effect.name not in (*MAPPED, HEADS):
            continue
        n_layers = effect.mean.shape[2]
        for row, bucket in zip(TOKENS, (LAST, effect.buckets[-1]), strict=True):
            index = effect.buckets.index(bucket)
            peak = peaks[effect.part, effect.name, bucket]
            layers, values, head = range(n_layers), Interval(*(
                bounds[metric, index] for bounds in (effect.mean, effect.low, effect.high)
            )), ""  # fmt: skip
            if effect.name == HEADS:
                if "layer" not in peak:
                    continue
                layers, head = [peak["layer"]], peak["head"]
                values = Interval(*(np.array([peak[name]]) for name in ("effect", "low", "high")))
            yield Curve(
                found.model, (row, effect.name), effect.part, n_layers, layers, values,
                effect.enough[index], {
                    "corrupted": effect.part, "token": bucket, "site": effect.name,
                    "window": effect.window, "facts": effect.n_facts[index],
                    "tokens": effect.n_tokens[index], "head": head,
                },
            )  # fmt: skip


@styled
def knockouts(found: Sequence[HeadAnswers]) -> Figure:
    """Draws the change of the answer's probability by depth, a panel for each cut of attention.

    Raises:
        InputError: a model is there twice.
    """
    curves, shown = _knockout_curves(found), looks(one.model for one in found)
    there = {curve.panel[1] for curve in curves}
    columns = {name: cut_title(name) for name in CUTS if name in there}
    windows = listed(one.window for one in found)
    caption = (
        f"Clean runs; attention edges cut in {plural(windows, 'layer')}; seed "
        f"{listed(one.seed for one in found)}; bands: 95\u00a0% bootstrap intervals over facts."
        f"{DEPTH} Marks: the largest change of a curve.{OWN_FACTS}"
    )
    if any(one.window > 1 for one in found):
        caption += WINDOWS
    title = of_models("Attention knockout by relative depth", shown)
    figure, axes = panels(title, caption, {"": ""}, columns)
    axes[0, 0].set_ylabel("change of the answer’s\nprobability (%)")
    curve_legend(
        figure, curves, shown, {one.model: f"n = {plural(len(one.facts), 'fact')}" for one in found}
    )
    draw_curves(axes, [""], list(columns), curves, shown)
    return figure


def knockout_rows(found: Sequence[HeadAnswers]) -> list[dict[str, Any]]:
    """The numbers of `knockouts`, one row each."""
    return [row for curve in _knockout_curves(found) for row in curve.rows("change in percent")]


def _knockout_curves(found: Sequence[HeadAnswers]) -> list[Curve]:
    """The curves of all models."""
    require_alike(found, {})
    require_once((one.model, "knockouts") for one in found)
    return [
        Curve(
            one.model, ("", name), "", curve.mean.size, range(curve.mean.size), _percent(curve),
            True, {
                "cut": name, "window": one.window,
                "facts": sum(name in fact.knockout for fact in one.facts),
            },
        )
        for one in found
        for name, curve in one.curves().items()
    ]  # fmt: skip


@styled
def write_sites(found: Sequence[SiteFindings]) -> Figure:
    """Draws the Score of an edit of one site: a row for each half, a column for each key position.

    Raises:
        InputError: a model is there twice.
    """
    curves, shown = _site_curves(found), looks(one.model for one in found)
    there = {key for curve in curves for key in curve.panel}
    columns = {where: name for where, name in POSITIONS.items() if where in there}
    halves = {half: name for half, (name, _) in HALVES.items() if half in there}
    caption = (
        f"Joint edits of one site, from the relation side; seed {listed(o.seed for o in found)}; "
        f"bands: 95\u00a0% bootstrap intervals over cases.{DEPTH} Score: harmonic mean of the "
        "shares of success gained and kept. Marks: the largest Score of a curve, which was chosen "
        "and measured on the same cases."
    )
    title = of_models("Score of a relation edit by write site", shown)
    figure, axes = panels(title, caption, halves, columns)
    for row, name in zip(axes, halves.values(), strict=True):
        row[0].set_ylabel(f"{name}\nScore (%)")
    axes[0, 0].set_ylim(-4, 104)
    curve_legend(
        figure, curves, shown, {one.model: f"n = {plural(one.n_cases, 'case')}" for one in found}
    )
    draw_curves(axes, list(halves), list(columns), curves, shown)
    return figure


def write_site_rows(found: Sequence[SiteFindings]) -> list[dict[str, Any]]:
    """The numbers of `write_sites`, one row each."""
    return [row for curve in _site_curves(found) for row in curve.rows("Score in percent")]


def _site_curves(found: Sequence[SiteFindings]) -> list[Curve]:
    """The curves of all models; layers without a Score are left out."""
    require_alike(found, {})
    require_once((one.model, "write sites") for one in found)
    curves = []
    for one in found:
        for half in HALVES:
            for where in POSITIONS:
                sites = sorted(
                    (site for site in one.edited if (site.half, site.where) == (half, where)),
                    key=lambda site: site.layer,
                )
                if sites:
                    scores = np.array([site.found[SCORE][:3] for site in sites], dtype=float)
                    place = {"half": half, "key": where, "cases": one.n_cases}
                    layers = [site.layer for site in sites]
                    curves.append(
                        Curve(
                            one.model, (half, where), "", one.n_layers, layers,
                            _percent(Interval(*scores.T)), True, place,
                        )
                    )  # fmt: skip
    return curves


def _percent(values: Interval) -> Interval:
    return Interval(*(100 * bounds for bounds in values))


def _windows(site: str, curves: Sequence[Curve]) -> str:
    """The name of a site with its windows; models may have different ones."""
    windows = sorted({c.where["window"] for c in curves if c.panel[1] == site})
    if len(windows) == 1:
        return site_name(site, windows[0])
    return f"{SITES[site]}, windows {listed(windows)}"
