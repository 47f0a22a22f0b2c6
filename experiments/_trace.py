"""What trace_relation and patch_heads share: their options, and tracing facts into a run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from simple_parsing import field as option

from experiments._facts import fact_key, readable
from experiments._run import RunFolder
from kedit.bounds import RULES
from kedit.progress import progress

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from kedit.facts import Fact
    from kedit.results.traces import FactTrace
    from probes.corrupt import Corruption, Noise
    from probes.patch import Patch
    from probes.screen import Screening

# options that change pictures and tables only
DRAWING = ("metric", "heatmaps", "baseline", "keep_all")
KEPT_SHARE = 0.5  # of its clean probability: an answer that keeps more was hardly corrupted
# why a fact, or one part of it, is not in the averages
WRONG, UNUSABLE, NO_REPLACEMENT = "answered otherwise", "not usable", "no replacement"
WEAK = "keeps more than half of its answer's probability"
SITES = [*RULES["sites"].words]  # pyright: ignore[reportAttributeAccessIssue]


@dataclass(frozen=True)
class Config:
    """What is traced, how it is corrupted, and what is drawn of it."""

    model: str = "gemma-3-270m"
    """gemma-3-270m, toy, a name TransformerLens knows, a Hugging Face folder, or a .gguf file."""
    facts: str = "auto"
    """builtin, toy, or a file: facts of your own (JSON Lines, CSV), known_1000.json, CounterFact, a
    relation file of evandez/relations ... (auto: the toy's own for the toy, else builtin)."""
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
    seed: int = 0
    """Of the choice of facts, replacements and noise, and of the bootstrap."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1 ..."""
    dtype: str = "float32"
    """Of the weights; on CUDA also bfloat16 or float16."""
    out: str = ""
    """The run's folder (default: results/EXPERIMENT/MODEL-HASH)."""
    preset: Literal["", "rake"] = option(default="", cmd=True)
    """rake: corrupted relations as RaKE's paper describes them, all facts: upstream noise, 10
    samples, windows of 10, pooled baseline. It replaces these options. RaKE's code holds no tracing
    of relations, only ROME's of subjects: the setting is ROME's, on the relation's words."""


class Sweeps(NamedTuple):
    """What is restored, and how cells are chosen before, if they are."""

    patches: "Sequence[Patch]"
    screening: "Screening | None"


def settled(config: Config) -> Config:
    """`config` with its preset and its automatic choices filled in.

    The preset rests on RaKE's paper: its repository has ROME's tracer unchanged, which corrupts the
    words that a record calls its subject.
    """
    if config.preset == "rake":
        config = replace(
            config, corrupt="relation", by="noise", noise="upstream", samples=10, window=10,
            baseline="pooled", metric="prob", limit=0,
        )  # fmt: skip
    if config.facts == "auto":
        config = replace(config, facts="toy" if config.model == "toy" else "builtin")
    return config


def patches(sites: Sequence[str], window: int) -> "list[Patch]":
    """The sweeps that the options ask for."""
    from probes.patch import Patch

    chosen: list[Patch] = []
    for site in sites:
        if site == "severed":
            chosen += [
                Patch("resid_post", severed="mlp_out"),
                Patch("resid_post", severed="attn_out"),
            ]
        elif site in ("mlp_out", "attn_out"):
            chosen.append(Patch(site, window))
        else:
            chosen.append(Patch(site))  # pyright: ignore[reportArgumentType]
    return chosen


def screen(config: Config) -> "Screening | None":
    """How the options have cells chosen before the sweeps; None: all of them.

    Raises:
        InputError: a share that is not between 0 and 1.
    """
    from probes.screen import Screening

    if not config.screen:
        return None
    return Screening(config.screen, steps=config.screen_steps, seed=config.seed)


def corruption_in_words(config: Config) -> str:
    """What was done to the corrupted words."""
    if config.by == "replacement":
        return "words replaced by others"
    return f"words under noise ({config.noise})"


def parts(config: Config) -> tuple[str, ...]:
    return ("relation", "subject") if config.corrupt == "both" else (config.corrupt,)


def trace_facts(
    config: Config,
    folder: RunFolder,
    pool: "Sequence[Fact]",
    order: "Sequence[Sequence[Fact]]",
) -> "dict[str, list[FactTrace]]":
    """Traces facts that the model answers right until `limit` of them are done, for each part.

    What the folder already holds is not done again. A fact that the model answers wrong, or that
    cannot be used, is recorded with the reason and counts for nothing; so does one whose words all
    are replaced without harm to its answer, but it is among the traces (`corrupting` sorts it out).

    Args:
        pool: all facts, whose words replace others.
        order: those that are traced, in this order, each in all its wordings.
    """
    from kedit.errors import InputError
    from kedit.results.traces import fact_traces
    from probes.corrupt import noise_rule

    sweeps = Sweeps(patches(config.sites, config.window), screen(config))
    limit = min(config.limit or len(order), len(order))
    folder.path.joinpath("README.txt").write_text(_EXPLAINED, encoding="utf-8")
    traces: dict[str, list[FactTrace]] = {part: [] for part in parts(config)}
    n_finished = 0
    with progress("facts") as bars:
        bar = bars.add_task(f"loading {config.model}", total=limit)
        model = folder.load(config)
        noises = {}
        if config.by == "noise":
            every = list(readable(model, (worded[0] for worded in order)))
            noises = {part: noise_rule(model, config.noise, every, part) for part in parts(config)}
        for worded in order:
            if n_finished == limit:
                break
            fact, key = worded[0], fact_key(worded[0])
            bars.update(bar, description=f"{fact.subject[:20]}: {fact.relation.name[:18]}")
            if key not in folder.records:
                try:
                    folder.add(key, *_traced(config, model, worded, sweeps, pool, noises))
                except InputError as error:
                    folder.add(key, _left_out(fact, UNUSABLE, str(error)))
            if "skipped" not in folder.records[key]:
                by_part = fact_traces(folder.records[key], folder.tensors(key))
                for part, one in by_part.items():
                    traces[part].append(one)
                n_finished += any(corrupts(config, one) for one in by_part.values())
                bars.update(bar, completed=n_finished)
    return traces


def corrupts(config: Config, trace: "FactTrace") -> bool:
    """Whether the corruption takes at least half of the answer's probability.

    Replacement only: noise is an average over samples, and Meng et al.'s protocol leaves none out.
    """
    return config.keep_all or config.by == "noise" or trace.kept_share <= KEPT_SHARE


def corrupting(
    config: Config, traces: "Mapping[str, Sequence[FactTrace]]"
) -> "dict[str, list[FactTrace]]":
    """The traces that are averaged."""
    return {part: [one for one in done if corrupts(config, one)] for part, done in traces.items()}


def _left_out(fact: "Fact", why: str, reason: str) -> "dict[str, Any]":
    """The record of a fact that is not traced."""
    return {"prompt": fact.prompt, "skipped": reason, "why": why}


def _traced(
    config: Config,
    model: "HookedTransformer",
    worded: "Sequence[Fact]",
    sweeps: Sweeps,
    pool: "Sequence[Fact]",
    noises: "Mapping[str, Noise]",
) -> "tuple[dict[str, Any], dict[str, Tensor]]":
    """Record and tensors of a fact, in the first wording that the model answers right.

    A part that cannot be corrupted does not take the other one with it.
    """
    from kedit.errors import NoReplacement
    from probes.known import first_known, told_apart
    from probes.trace import trace

    fact, heard = first_known(model, worded)
    if fact is None:
        return _left_out(worded[0], WRONG, f"it says {', '.join(map(repr, heard))}"), {}
    fact = told_apart(model, fact, pool)
    done, uncorrupted = [], {}
    for part in parts(config):
        try:
            corruption = _corruption(config, model, fact, part, pool, noises)
        except NoReplacement as error:
            uncorrupted[part] = str(error)
            continue
        done.append(
            trace(
                model, fact, part, corruption, sweeps.patches,
                screening=sweeps.screening, whole=config.answer == "whole",
            )
        )  # fmt: skip
    if not done:
        return _left_out(fact, NO_REPLACEMENT, "; ".join(uncorrupted.values())), {}
    tensors = {f"{one.part}:{name}": value for one in done for name, value in one.tensors().items()}
    return {"traces": [one.to_record() for one in done], "uncorrupted": uncorrupted}, tensors


def _corruption(
    config: Config,
    model: "HookedTransformer",
    fact: "Fact",
    part: str,
    pool: "Sequence[Fact]",
    noises: "Mapping[str, Noise]",
) -> "Corruption":
    from kedit.models.prompts import encode
    from probes.corrupt import add_noise, prompt_seed, replaced

    if config.by == "replacement":
        return replaced(model, fact, part, pool, config.seed)
    prompt, seed = encode(model, fact), prompt_seed(config.seed, fact)
    return add_noise(model, prompt, part, noises[part], config.samples, seed)


_EXPLAINED = """\
config.json    what was asked for
versions.json  the packages and the machine
records.jsonl  one line a fact as it is finished: prompt, tokens, corruption; or why it was skipped
tensors/       its scores (metric x layer x position [x head]), restored, clean and corrupted
skipped.json   records of the file of facts that cannot be used, with the reason
averages.json  what the figures show: average effects by bucket, with intervals
*.png, *.pdf   the figures
"""
