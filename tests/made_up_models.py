"""Made-up results of several models: of different depth, with different intervals and counts."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kedit.results.fact_answers import CUTS
from kedit.results.head_answers import HeadAnswers
from kedit.results.heads import AttentionShare, KindTest
from kedit.results.kinds import KindsCompared
from kedit.results.sites import Estimate, SiteFindings, SiteNumbers
from kedit.results.trace_averages import TraceAverages
from kedit.results.tracing import Counts, Tracing
from kedit.stats import Interval
from kedit.studies.comparison import Comparison
from tests import test_figures as effects
from tests.made_up_heads import fact_of, found_of
from tests.test_figures_compare import comparison_of

PARTS = ("relation", "subject")
TOTAL = Interval(*np.array([[0.34, 3, 5], [0.27, 2, 4], [0.43, 4, 6]]))


def traced(
    model: str, n_layers: int, parts: Sequence[str] = PARTS, n_facts: int = 60, **how
) -> TraceAverages:
    """Averages of all sites and of heads; those of the two parts differ."""
    made = []
    for part in parts:
        for one in (
            *effects.sites(shape=(n_layers,), **how),
            effects.effect("z", (n_layers, 3), **how),
        ):
            shift = 0.01 * n_layers + (part == "subject") / 7
            bounds = {name: getattr(one, name) + shift for name in ("mean", "low", "high")}
            if n_facts == 1:
                bounds |= {name: bounds["mean"] * np.nan for name in ("low", "high")}
            counts = tuple(n_facts if n else 0 for n in one.n_facts)
            made.append(replace(one, part=part, n_facts=counts, n_tokens=counts, **bounds))
    counts = Counts(dict.fromkeys(parts, n_facts), dict.fromkeys(parts, 9), {}, {})
    totals = {part: {"total effect": TOTAL} for part in parts}
    return TraceAverages(model, Tracing(), "prob", "own", counts, {}, totals, {}, tuple(made))


def asked(model: str, n_layers: int, cuts: Sequence[str] = (*CUTS,), n_facts: int = 5):
    """Knockouts that become weaker from layer to layer, other ones for each fact."""
    curve = np.linspace(-0.9, 0.1, n_layers)
    knockouts = [dict.fromkeys(cuts, tuple(curve - n / 100)) for n in range(n_facts)]
    answers: HeadAnswers = found_of(
        [fact_of([], knockout=cut) for cut in knockouts], model=model, window=5
    )
    return answers


def written(
    model: str, n_layers: int, positions: Sequence[str] = ("last", "subject_last")
) -> SiteFindings:
    """Scores at every third layer, from the last one to the first, and a head."""
    draw = np.random.default_rng(n_layers)
    made = []
    for where in positions:
        for half in ("mlp", "attn"):
            for layer in reversed(range(0, n_layers, 3)):
                low, mean, high = np.sort(draw.uniform(size=3))
                score = Estimate(mean, low, high, 8)
                made.append(SiteNumbers(layer, half, None, where, "joint", {"Score": score}))  # pyright: ignore[reportArgumentType]
    nothing = Estimate(np.nan, np.nan, np.nan, 0)
    made.append(SiteNumbers(0, "attn", 1, "last", "", {"Score": nothing}))
    return SiteFindings(model, 0, 8, 5, {}, {}, tuple(made), (), (), n_layers)


def kinds_of(model: str, parts: Sequence[str] = PARTS, seed: int = 0) -> KindsCompared:
    draw = np.random.default_rng([seed, len(parts)])
    shares, tests = [], []
    for part in parts:
        for measure in ("restored", "severed"):
            tests.append(KindTest(part, measure, 0.2, float(draw.uniform())))
            for kind in ("all", "symmetric", "asymmetric", "hierarchical"):
                low, mean, high = np.sort(draw.uniform(-0.1, 1.2, 3))
                share = Interval(*map(np.array, (mean, low, high)))
                shares.append(AttentionShare(part, measure, kind, share, 27, 3))
    return KindsCompared(
        model, "words replaced by others", "prob", 0, 108, tuple(shares), tuple(tests)
    )


def compared(
    model: str, names: Sequence[str], sides: Sequence[str] = ("entity", "relation"), seed: int = 0
) -> Comparison:
    """Editors with other numbers each; the last one has no settings for the model."""
    found, draw = comparison_of(names, model), np.random.default_rng(seed)
    editors = []
    for one in found.editors:
        if one.side not in sides:
            continue
        numbers = [Interval(*map(np.array, np.sort(draw.uniform(size=3))[[1, 0, 2]]))
                   for _ in range(3)]  # fmt: skip
        measures = tuple(
            replace(measure, key=measure.key._replace(group="Score", statistic="all lifts"),
                    after=numbers[0])
            for measure in one.measures[:1]
        )  # fmt: skip
        measures = tuple(
            replace(one_of, key=one_of.key._replace(perspective=one.side)) for one_of in measures
        )
        editors.append(
            replace(one, measures=measures, generalisation=numbers[1], locality=numbers[2],
                    is_tuned=one.editor != names[-1])
        )  # fmt: skip
    return replace(found, editors=tuple(editors))
