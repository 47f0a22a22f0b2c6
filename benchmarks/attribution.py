"""What does the attribution screen cost, and what is it worth? python -m benchmarks.attribution

On Gemma 3 270M (the extra), for facts that it answers right, corrupted relations, against exact
sweeps of the same run:
  cost_*    our exact sweep's time over the attribution pass's, which gives every site at once
  rho_*     Spearman's correlation with the exact effects over a fact's cells, mean over facts
  top10_*   of the ten largest exact effects, the share among the first tenth of the screen
for one gradient at the corrupted run, and (steps_*) for the mean of five on the way to the clean
one. Cells before the first corrupted token, whose effect is zero by construction, do not count.
The quick run takes two facts.
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
from kedit.forward.runs import Run, States
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
LARGEST = 10
KEPT = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two facts")
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--by", choices=["noise", "replacement"], default="noise")
    parser.add_argument("--metric", choices=METRICS, default="prob")
    parser.add_argument("--threads", type=int, default=1, help="of torch: one, to compare machines")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load("gemma-3-270m", "cpu", "float32")
    wanted = 2 if options.quick else options.facts
    rows: dict[str, list[float]] = {}
    n_facts = 0
    for fact, (clean, corrupted), question, first in _runs(model, options.by, wanted):
        for name, value in _compared(
            model, clean, corrupted, question, first, options.metric
        ).items():
            rows.setdefault(name, []).append(value)
        n_facts += 1
        print(f"  {fact.prompt!r}, corrupted in {corrupted.last.shape[0]} ways", flush=True)
    print(f"{n_facts} facts by {options.by}, metric {options.metric}; mean [95 % over facts]:")
    means = {}
    for name, values in rows.items():
        mean, low, high = bootstrap_ratio(np.array(values), np.ones(len(values)))
        means[name] = float(mean)
        print(f"  {name}: {mean:.2f} [{low:.2f}, {high:.2f}]")
    report(means)


def _runs(
    model: HookedTransformer, by: str, n_facts: int
) -> Iterator[tuple[Fact, tuple[States, States], AnswerMetric, int]]:
    """Facts that the model answers right, with both runs' states, the question, where they part."""
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
        states = (Run(prompt.tokens[None]).states(model), corruption.run.states(model))
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
    """All figures of one fact."""
    exact, spent = {}, {}
    for patch in SITES:
        grid, spent[patch.site] = timed(partial(sweep, model, clean, corrupted, patch, question))
        exact[patch.site] = grid.indirect_effect(metric)[:, first:]
    figures = {}
    for steps in STEPS:
        work = partial(attributed, model, clean, corrupted, SITES, question, [metric], steps)
        said, cost = work(), seconds(work, 1, warm_up=False)  # short: the first call warms up
        told = "" if steps == 1 else "steps_"
        figures[f"{told}cost_all"] = sum(spent.values()) / cost
        for site, effect in exact.items():
            name = NAMES[site]
            guess = said[site][0][:, first:]
            figures[f"{told}cost_{name}"] = spent[site] / cost
            figures[f"{told}rho_{name}"] = float(rank_correlation(_flat(effect), _flat(guess)))
            figures[f"{told}top{LARGEST}_{name}"] = _found(effect, guess)
    return figures


def _flat(effect: torch.Tensor) -> np.ndarray:
    return effect.flatten().double().numpy()


def _found(effect: torch.Tensor, guess: torch.Tensor) -> float:
    """Of the largest exact effects, the share among the first of the screen."""
    n_kept = max(LARGEST, round(KEPT * effect.numel()))
    kept = set(guess.abs().flatten().topk(n_kept).indices.tolist())
    largest: Sequence[int] = effect.abs().flatten().topk(LARGEST).indices.tolist()
    return sum(place in kept for place in largest) / LARGEST


if __name__ == "__main__":
    main()
