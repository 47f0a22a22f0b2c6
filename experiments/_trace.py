"""What is traced, how, and what is drawn of it: the options of the commands that trace facts."""

from dataclasses import dataclass, field, replace
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from kedit.bounds import RULES

# options that change pictures and tables only
DRAWING = ("metric", "heatmaps", "baseline", "keep_all")
SITES = [*RULES["sites"].words]  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Config:
    """What is traced, how it is corrupted, and what is drawn of it."""

    model: str = options.model()
    facts: str = options.facts()
    limit: int = 32
    """How many facts to trace, over as many relations as there are; 0 for all. Facts that are left
    out do not count."""
    relations: str = ""
    """Only facts of these: ids or names, separated by commas; or of so many, those that have the
    most subjects."""
    corrupt: Literal["both", "relation", "subject"] = "both"
    """Whose words are corrupted."""
    by: Literal["replacement", "noise"] = "replacement"
    """Other words of the same token length (one run a fact), or noise on the embeddings."""
    noise: str = "s3"
    """Noise rule: s3 (3 standard deviations of the words' embeddings), m, t5, u0.1, or a number;
    upstream:RULE draws it as ROME's published code does, from the same seed for every fact
    (upstream: upstream:s3); ending in = it replaces the embedding."""
    samples: int = 10
    """Noise samples a fact (replacement takes one)."""
    keep_all: bool = False
    """Average over facts too whose answer keeps more than half of its probability when words are
    replaced by others: what restores an answer cannot be seen where nothing took it away."""
    answer: Literal["token", "whole"] = "token"
    """token: trace the first token that tells the object from the likeliest other object of its
    relation. whole: trace all of the object; scores are sums of log-probabilities (slower)."""
    sites: list[str] = field(default_factory=lambda: list(SITES))
    """Any of resid_post mlp_out attn_out z severed."""
    window: int = 10
    """Layers of MLP or attention outputs restored together; 1 for single layers."""
    screen: float = 0.0
    """Restore only this share of a fact's cells, those that attribution patching puts first, and a
    sample of the others, which tells what was missed; 0 restores all."""
    screen_steps: int = 1
    """The screen's gradient is the mean over this many points, from the corrupted run towards the
    clean one. One point, the corrupted run, ranks heads better than five on Gemma 3 270M."""
    metric: Literal["prob", "logprob", "logit_diff"] = "prob"
    """Which score the figures and the table show; all three are measured."""
    baseline: Literal["own", "pooled"] = "own"
    """Subtract each fact's own corrupted score, or all facts' average. pooled is as ROME's
    notebook, which counts a token that alone follows the corrupted words as first subsequent and
    as last."""
    heatmaps: int = 0
    """Draw the maps of this many single facts."""
    seed: int = options.seed("the choice of facts, replacements and noise, and of the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("EXPERIMENT")
    preset: Literal["", "rake"] = option(default="", cmd=True)
    """rake: corrupted relations as RaKE's paper describes them, all facts: upstream noise, 10
    samples, windows of 10, pooled baseline. It replaces these options. RaKE's code holds no tracing
    of relations, only ROME's of subjects: the setting is ROME's, on the relation's words."""


def settled(config: Config) -> Config:
    """`config` with its preset and its automatic choices filled in.

    The preset rests on RaKE's paper: its repository has ROME's tracer unchanged, which corrupts the
    words that a record calls its subject.
    """
    from kedit.data.choose import facts_source

    if config.preset == "rake":
        config = replace(
            config, corrupt="relation", by="noise", noise="upstream", samples=10, window=10,
            baseline="pooled", metric="prob", limit=0,
        )  # fmt: skip
    return replace(config, facts=facts_source(config.facts, config.model))
