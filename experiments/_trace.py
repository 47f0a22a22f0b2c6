"""The options of the commands that trace facts: what is traced, how, and what is drawn."""

from dataclasses import dataclass, replace
from typing import Literal

from simple_parsing import field as option

from experiments import _options as options
from experiments._spread import Spread

# options that change only figures and tables
DRAWING = ("metric", "heatmaps", "baseline", "keep_all")


@dataclass(frozen=True)
class Config:
    """Which facts are traced, how they are corrupted, and what is drawn."""

    model: str = options.model()
    facts: str = options.facts()
    limit: int = 32
    """The number of facts to trace, spread over as many relations as possible; 0: all facts. Facts
    that are left out do not count."""
    relations: str = options.relations()
    corrupt: Literal["both", "relation", "subject"] = "both"
    """Whose words are corrupted."""
    by: Literal["replacement", "noise"] = "replacement"
    """How words are corrupted: replaced by other words with as many tokens (one corrupted run per
    fact), or by noise on their embeddings."""
    noise: str = "s3"
    """The noise rule. s3: normal, 3 standard deviations of the words' embeddings. m: normal, with
    mean and covariance of the prompts' embeddings. t5: the same as Student's t with 5 degrees of
    freedom. u0.1: uniform between -0.1 and 0.1. A number: normal with this standard deviation.
    upstream:RULE draws as ROME's published code does, from the same seed for every fact; upstream
    alone means upstream:s3. A rule that ends in = replaces the embedding instead of adding to
    it."""
    samples: int = 10
    """The number of noise samples per fact. A replacement always has one sample."""
    keep_all: bool = False
    """Average also over facts whose answer keeps more than half of its probability when words are
    replaced. They are left out by default: restoring cannot show an effect where the corruption had
    nearly none."""
    answer: Literal["token", "whole"] = "token"
    """token: score the first token that distinguishes the object from the likeliest other object of
    the relation. whole: score all tokens of the object, as a sum of log-probabilities (slower)."""
    sites: list[str] = options.sites()
    window: int = 10
    """The number of adjacent layers whose MLP or attention outputs are restored together; 1: single
    layers."""
    screen: float = 0.0
    """Restore only this share of a fact's cells, those that attribution patching ranks highest, and
    a random sample of the others, which shows what was missed. 0: restore all cells."""
    screen_steps: int = 1
    """The number of points, from the corrupted run towards the clean run, over which the screen
    averages its gradient. On Gemma 3 270M one point ranks heads better than five."""
    metric: Literal["prob", "logprob", "logit_diff"] = options.metric()
    baseline: Literal["own", "pooled"] = "own"
    """What averages subtract: each fact's own corrupted score, or (pooled) the average over all
    facts, as in ROME's notebook. With pooled, a token that alone follows the corrupted words counts
    as first subsequent token and as last token."""
    heatmaps: int = 0
    """The number of single facts whose maps are drawn."""
    seed: int = options.seed("the choice of facts, the replacements, the noise and the bootstrap")
    device: str = options.device()
    dtype: str = options.dtype()
    out: str = options.out("EXPERIMENT")
    preset: Literal["", "rake"] = option(default="", cmd=True)
    """rake: trace corrupted relations as RaKE's paper describes it, on all facts: upstream noise,
    10 samples, windows of 10 layers, pooled baseline. The preset overrides these options. RaKE's
    published code traces only corrupted subjects (it is ROME's), so the setting is ROME's, applied
    to the relation's words."""
    spread: Spread = option(default_factory=Spread)


def settled(config: Config) -> Config:
    """Returns `config` with its preset and its automatic choices filled in.

    The preset follows RaKE's paper. Its repository has ROME's tracer unchanged, which corrupts the
    words of a record's subject.
    """
    from kedit.data.choose import facts_source

    if config.preset == "rake":
        config = replace(
            config, corrupt="relation", by="noise", noise="upstream", samples=10, window=10,
            baseline="pooled", metric="prob", limit=0,
        )  # fmt: skip
    return replace(config, facts=facts_source(config.facts, config.model))
