"""Finds and calls the figure function of a result.

This is the only module of kedit that uses the package `figures`, and it imports it only when a plot
is requested. A figure function takes a result and plain options and returns a matplotlib Figure,
which a notebook shows.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# the module and the function that draw a result, by the name of the result's type
PLOTS: Mapping[str, tuple[str, str]] = {
    "Anatomy": ("figures.anatomy", "carried"),
    "ManyEdits": ("figures.many_edits", "many_edits"),
    "BeforeAfter": ("figures.edit", "before_after"),
    "Ablation": ("figures.ablation", "ablation"),
    "Comparison": ("figures.compare", "comparison"),
    "EditTrace": ("figures.trace", "heatmap"),
    "FactTrace": ("figures.trace", "heatmap"),
    "FactsEdited": ("figures.edit", "many_facts"),
    "Frontiers": ("figures.frontier", "of_frontiers"),
    "HeadAnswers": ("figures.questions", "answers"),
    "NeuronFindings": ("figures.neurons", "layers"),
    "Leverages": ("figures.leverage", "leverage"),
    "PromptTrace": ("figures.trace", "heatmap"),
    "SiteFindings": ("figures.sites", "sites"),
    "RakeStatistics": ("figures.benchmark", "by_relation"),
    "Scores": ("figures.score", "score"),
    "TrainedMend": ("figures.training", "losses"),
    "Tuning": ("figures.tuning", "tuning"),
    "TraceAverages": ("figures.traced", "effects"),
    "HeadsByRelation": ("figures.relations", "clusters"),
    "KindsCompared": ("figures.kinds", "attention_shares"),
}


def plot(result: Any, *args: Any, **options: Any) -> "Figure":
    """Draws the figure of a result; `args` and `options` are passed to its figure function.

    Raises:
        InputError: no figure shows results of this type.
    """
    name = type(result).__name__
    if name not in PLOTS:
        raise InputError(f"no figure shows a {name}; there are figures of {', '.join(PLOTS)}")
    module, function = PLOTS[name]
    return getattr(import_module(module), function)(result, *args, **options)
