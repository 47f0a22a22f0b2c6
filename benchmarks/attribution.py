"""How fast and how accurate is the attribution screen? python -m benchmarks.attribution

Compares attribution with exact sweeps on Gemma 3 270M (the extra), for facts that the model answers
right, with corrupted relations:
  cost_*    time of our exact sweep, divided by that of the attribution pass (all sites at once)
  rho_*     Spearman's correlation of estimates and exact effects over a fact's cells
  top10_*   share of the ten largest exact effects that the screen's first tenth of cells contains
All are means over facts. Names with steps_ use the mean of five gradients between the corrupted and
the clean run, the others a single gradient at the corrupted run. Cells before the first corrupted
token are left out, because their effect is zero by construction. The quick run uses two facts.
"""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from transformer_lens import HookedTransformer

from benchmarks._timing import report, seconds, timed
from kedit.data import load_facts
from kedit.data.choose import spread_facts
from kedit.facts import Fact
from kedit.forward.metrics import METRICS
from kedit.forward.runs import Run, States, both_states
from kedit.models.load import load
from kedit.models.prompts import encode
from kedit.stats import bootstrap_ratio, rank_correlation
from probes.attribution import attributed
from probes.corrupt import add_noise, noise_rule, prompt_seed, replaced
from probes.known import first_known, with_likeliest_rival
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import question_of

SITES = (Patch("resid_post"), Patch("mlp_out"), Patch("attn_out"), Patch("z"))
NAMES = {"resid_post": "resid", "mlp_out": "mlp", "attn_out": "attn", "z": "heads"}
SAMPLES = 10
STEPS = (1, 5)
LARGEST = 10  # exact effects that the screen should find
KEPT = 0.1  # share of cells that the screen keeps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two facts")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--by", choices=["noise", "replacement"], default="noise")
    parser.add_argument("--metric", choices=METRICS, default="prob")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads; 1 to compare machines"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load("gemma-3-270m", "cpu", "float32")
    limit = 2 if options.quick else options.facts
    rows: dict[str, list[float]] = {}
    n_facts = 0
    for fact, (clean, corrupted), question, first in _runs(model, options.by, limit):
        for name, value in _compared(
            model, clean, corrupted, question, first, options.metric
        ).items():
            rows.setdefault(name, []).append(value)
        n_facts += 1
        print(f"  {fact.prompt!r}, {corrupted.last.shape[0]} corrupted samples", flush=True)
    print(
        f"{n_facts} facts corrupted by {options.by}, metric {options.metric}; mean [95 % interval]:"
    )
    means = {}
    for name, values in rows.items():
        mean, low, high = bootstrap_ratio(np.array(values), np.ones(len(values)))
        means[name] = float(mean)
        print(f"  {name}: {mean:.2f} [{low:.2f}, {high:.2f}]")
    report(means)


def _runs(
    model: HookedTransformer, by: str, n_facts: int
) -> Iterator[tuple[Fact, tuple[States, States], AnswerMetric, int]]:
    """Yields facts that the model answers right, with what is needed to compare their effects.

    That is the states of the clean and of the corrupted run, the metric, and the first corrupted
    position.
    """
    pool = load_facts("builtin")
    noise = noise_rule(model, "s3", pool, "relation")
    wordings = (first_known(model, worded)[0] for worded in spread_facts(pool, seed=0))
    known = (with_likeliest_rival(model, fact, pool) for fact in wordings if fact is not None)
    for fact in itertools.islice(known, n_facts):
        prompt = encode(model, fact)
        if by == "noise":
            seed = prompt_seed(0, fact)
            corruption = add_noise(model, prompt, "relation", noise, SAMPLES, seed)
        else:
            corruption = replaced(model, fact, "relation", pool, 0)
        states = both_states(model, Run(prompt.tokens[None]), corruption.run)
        yield (
            fact,
            states,
            question_of(model, prompt.answer_ids[0], states[1]),
            corruption.positions[0],
        )


def _compared(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    question: AnswerMetric,
    first: int,
    metric: str,
) -> dict[str, float]:
    """Computes all of the benchmark's numbers for one fact."""
    exact, spent = {}, {}
    for patch in SITES:
        grid, spent[patch.site] = timed(partial(sweep, model, clean, corrupted, patch, question))
        exact[patch.site] = grid.indirect_effect(metric)[:, first:]
    figures = {}
    for steps in STEPS:
        work = partial(attributed, model, clean, corrupted, SITES, question, [metric], steps)
        estimated, cost = work(), seconds(work, 1, warm_up=False)  # the first call warms up
        prefix = "" if steps == 1 else "steps_"
        figures[f"{prefix}cost_all"] = sum(spent.values()) / cost
        for site, effect in exact.items():
            name = NAMES[site]
            estimate = estimated[site][0][:, first:]
            figures[f"{prefix}cost_{name}"] = spent[site] / cost
            figures[f"{prefix}rho_{name}"] = float(rank_correlation(_flat(effect), _flat(estimate)))
            figures[f"{prefix}top{LARGEST}_{name}"] = _found(effect, estimate)
    return figures


def _flat(effect: torch.Tensor) -> np.ndarray:
    return effect.flatten().double().numpy()


def _found(effect: torch.Tensor, estimate: torch.Tensor) -> float:
    """The share of the largest exact effects that are among the cells kept by the screen."""
    n_kept = max(LARGEST, round(KEPT * effect.numel()))
    kept = set(estimate.abs().flatten().topk(n_kept).indices.tolist())
    largest: Sequence[int] = effect.abs().flatten().topk(LARGEST).indices.tolist()
    return sum(cell in kept for cell in largest) / LARGEST


if __name__ == "__main__":
    main()
