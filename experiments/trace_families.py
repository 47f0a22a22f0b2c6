"""Compares where families of models keep a relation: traces the same way in each, in one figure.

Decoders, BERT and T5 have different depths, so layers are drawn at their relative depth, and
modules are restored in windows of the same share of the depth.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from experiments import _options as options
from experiments._command import RESULTS, command
from experiments._printing import say

TOYS = ["toy", "toy-bert", "toy-t5"]
SITES = ("resid_post", "mlp_out", "attn_out")


@dataclass(frozen=True)
class Config:
    """Which models are traced, and how."""

    models: list[str] = field(default_factory=lambda: [*TOYS])
    """The models, in the order of the legend."""
    facts: str = options.facts()
    limit: int = 32
    """The number of facts to trace in each model, spread over as many relations as possible."""
    corrupt: Literal["both", "relation", "subject"] = "both"
    """Whose words are corrupted."""
    by: Literal["replacement", "noise"] = "replacement"
    """How words are corrupted: replaced by others, or by noise on their embeddings."""
    samples: int = 10
    """The number of noise samples per fact. A replacement always has one sample."""
    sites: list[str] = options.sites(SITES)
    depth_share: float = 0.25
    """The share of a model's layers that are restored together around each layer, for MLP and
    attention outputs; at least one layer."""
    metric: Literal["prob", "logprob", "logit_diff"] = options.metric()
    seed: int = options.seed("the choice of facts, the replacements, the noise and the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = ""
    """The folder of the figure, with a run of trace_relation for each model in a folder of its own
    (default: results/trace_families)."""


def run(config: Config) -> Path:
    """Traces the models one after the other; finished runs in the folder are used again."""
    from experiments import trace_relation
    from experiments._trace import Config as Tracing
    from figures import models as drawn

    out = Path(config.out) if config.out else RESULTS / "trace_families"
    runs = []
    for model in config.models:
        say(f"Tracing {model}")
        tracing = Tracing(
            model=model, facts=config.facts, limit=config.limit, corrupt=config.corrupt,
            by=config.by, samples=config.samples, sites=config.sites,
            window=_window(model, config.depth_share), metric=config.metric, seed=config.seed,
            device=config.device, dtype=config.dtype, out=str(out / Path(model).name),
        )  # fmt: skip
        runs.append(str(trace_relation.run(tracing)))
    figure, table = drawn.run(drawn.Config(runs, str(out)))
    say(f"The figure of all models is in {figure}, its numbers are in {table}")
    return out


def _window(model: str, share: float) -> int:
    """The number of layers that are restored together in this model."""
    from kedit.models.outline import outline_of

    outline = outline_of(model)
    return max(1, round(share * outline.n_layers)) if outline else 1


if __name__ == "__main__":
    command(Config, run)
