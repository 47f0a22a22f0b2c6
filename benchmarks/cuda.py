"""Is kedit right on CUDA, and how fast is it there? python -m benchmarks.cuda

On Gemma 3 270M (its weights if the extra is installed, else random weights of its shape) it first
compares results with those of the CPU: a fact's trace at all sites, a moment, an edit by ROME, and
the scores of some cases, in float32; and those in bfloat16 with those in float32. A difference that
is larger than rounding explains ends it with an error. Then it measures times (medians of rounds):

  gpu_trace, gpu_rome, gpu_score   the CPU's time (all its threads), divided by the device's
  hooked       one hooked forward pass per cell on the device, divided by kedit's sweep there
  batched      hooked forward passes of 32 cells that compute logits of the last position only,
               divided by kedit's sweep there
  together     training of values one after the other, divided by training them together
  memory       most memory that was allocated during a trace, divided by that of the weights

Before each clock is read, the device has finished. With --device cpu, the device is a second CPU:
this checks the benchmark itself on a machine without CUDA.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

import kedit
from benchmarks._shapes import random_gemma
from benchmarks._timing import report, seconds
from kedit.data import builtin
from kedit.editing.edit import Edit, LowRank
from kedit.editing.keys import training_rows
from kedit.editing.moments import moment
from kedit.editing.second_moment import Moment
from kedit.editing.values import Slot, Training, train, train_all
from kedit.editing.write_sites import WriteSite
from kedit.editors.rome import ROME
from kedit.errors import ModelUnavailable
from kedit.facts import EditCase
from kedit.forward.runs import Run
from kedit.models import toy
from kedit.models.hugging_face import hooked
from kedit.models.load import load, prepare, quiet
from kedit.models.prompts import device, encode
from kedit.results.traces import FactTrace
from kedit.scoring.score import Scoring, score
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import question_of
from tests import twins

CELLS = 32  # per forward pass of batched hooks
CONTEXTS = ("", "It is a fine day. ", "Here is what they say: ", "In the year 1990, ")
# Largest differences of log-probabilities between CPU and CUDA in float32, without and with an
# edit, whose training amplifies rounding; and between bfloat16 and float32 (their median).
AGREE, EDITED, HALF = 2e-3, 2e-2, 0.5


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer cases, cells and rounds")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ...; or cpu (see above)")
    parser.add_argument("--model", default="gemma-3-270m")
    options = parser.parse_args(argv)
    if options.device != "cpu" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device here, and this benchmark needs one")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")  # no TF32
    here, cases = model_and_cases(options.model)
    cases = cases[: 2 if options.quick else 12]
    there = on(options.device, here)
    half = on(options.device, here, torch.bfloat16)
    name = torch.cuda.get_device_name(options.device) if options.device != "cpu" else "the CPU"
    print(f"{here.cfg.model_name} on {name}, and on the CPU with {torch.get_num_threads()} threads")
    layer = round(0.3 * here.cfg.n_layers)
    check(here, there, half, cases, layer)
    rounds = 1 if options.quick else 3
    figures = against_cpu(here, there, cases, layer, rounds)
    figures |= against_hooks(there, cases[0], options.quick, rounds)
    figures |= against_one_by_one(there, cases, layer, rounds)
    if options.device != "cpu":
        figures |= memory(there, cases[0])
    report(figures)


def model_and_cases(name: str) -> tuple[HookedTransformer, list[EditCase]]:
    """Loads the model on the CPU, or makes Gemma's with random weights; with cases for it."""
    try:
        model = load(name, device="cpu")
        return model, list(toy.cases() if name == "toy" else builtin.cases())
    except ModelUnavailable as error:
        print(f"{error}: random weights of Gemma 3 270M's shape are used instead")
    with quiet():
        model = hooked(random_gemma(), torch.float32)
    return prepare(model, toy.tokenizer()), toy.cases()


def on(
    place: str, model: HookedTransformer, dtype: torch.dtype = torch.float32
) -> HookedTransformer:
    """A copy of the model on a device."""
    copied = copy.deepcopy(model)
    copied.to(dtype, print_details=False)
    copied.to(torch.device(place), print_details=False)
    return copied


def synchronised(model: HookedTransformer, work: Callable[[], object]) -> Callable[[], None]:
    """`work`, and then a wait until the model's device has finished it."""

    def whole() -> None:
        work()
        if device(model).type == "cuda":
            torch.cuda.synchronize(device(model))

    return whole


def check(
    here: HookedTransformer,
    there: HookedTransformer,
    half: HookedTransformer,
    cases: Sequence[EditCase],
    layer: int,
) -> None:
    """Compares results on the device with the CPU's, and those in bfloat16 with float32's."""
    own, other, low = (traced(model, cases[0]) for model in (here, there, half))
    off = max(float(apart(own, other, name).max()) for name in own.grids)
    typical = max(float(apart(own, low, name).median()) for name in own.grids)
    print(f"trace, {len(own.grids)} sweeps: log-probabilities differ by at most {off:.1e}")
    print(f"  in bfloat16: {typical:.2f} (the median of the sweep that differs most)")
    assert off < AGREE and typical < HALF
    seconds_here, seconds_there = (
        moment(model, [WriteSite(layer)], n_tokens=n_tokens(here), cache=False)
        for model in (here, there)
    )
    scale = float(seconds_here.matrix.diagonal().max())
    off = float((seconds_here.matrix - seconds_there.matrix.cpu()).abs().max()) / scale
    print(f"moment of layer {layer}: differs by {off:.1e} of its largest entry")
    assert off < AGREE
    edits = [edited(model, cases[:1], layer, seconds_here) for model in (here, there, half)]
    (delta,), (moved,) = (dense(edit) for edit in edits[:2])
    print(f"ROME: deltas differ by {float((delta - moved).norm() / delta.norm()):.1e} of the norm")
    plain = scored(half, cases[:1])
    scores = []
    for model, edit in zip((here, there, half), edits, strict=True):
        with edit.applied(model):
            scores.append(scored(model, cases[:1]))
    off, target, low_target = differ(*scores[:2]), scores[0][0], scores[2][0]
    print(
        f"  log-probabilities under the edit differ by at most {off:.1e}; the target's is "
        f"{target:.2f}, in bfloat16 {low_target:.2f} ({plain[0]:.2f} without the edit)"
    )
    assert off < EDITED and low_target > plain[0]
    one, two, low_scores = (scored(model, cases) for model in (here, there, half))
    off = differ(one, two)
    print(
        f"scores of {len(cases)} cases, {len(one)} probes: log-probabilities differ by at most "
        f"{off:.1e}, in bfloat16 by {differ(one, low_scores):.2f}"
    )
    assert off < AGREE


def traced(model: HookedTransformer, case: EditCase) -> FactTrace:
    """Traces the case's fact at all sites."""
    return kedit.trace(model, case.entity.fact, by="noise", samples=2)


def apart(one: FactTrace, other: FactTrace, name: str) -> Tensor:
    """How much the log-probabilities of a sweep differ, cell by cell."""
    logprob = one.grids[name].metrics.index("logprob")
    found = other.grids[name].restored[logprob]
    assert found.isfinite().all()
    return (one.grids[name].restored[logprob] - found).abs()


def n_tokens(model: HookedTransformer) -> int:
    """The fewest tokens for a moment of W_out."""
    return 2 * (model.cfg.d_mlp or 0)


def edited(model: HookedTransformer, cases: Sequence[EditCase], layer: int, second: Moment) -> Edit:
    """ROME's edit of the cases' entity requests, with given contexts and moment."""
    rome = ROME(layer, contexts=CONTEXTS[1:], moments=(second,))
    return rome(model, [case.entity for case in cases])


def dense(edit: Edit) -> list[Tensor]:
    """The edit's deltas as matrices, on the CPU."""
    return [
        (delta.left @ delta.right if isinstance(delta, LowRank) else delta).cpu()
        for delta in edit.deltas.values()
    ]


def scored(model: HookedTransformer, cases: Sequence[EditCase]) -> list[float]:
    """Log-probabilities of all probes' answers and rivals; the first is the first case's target."""
    named = [
        EditCase(case.id, case.entity, case.relation, tuple(p for p in case.probes if p.answer))
        for case in cases
    ]
    found = score(model, named, Scoring())
    return [probe.logprob for one in found for probe in one.probes]


def differ(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def against_cpu(
    here: HookedTransformer,
    there: HookedTransformer,
    cases: Sequence[EditCase],
    layer: int,
    rounds: int,
) -> dict[str, float]:
    """Compares the device's times with the CPU's."""
    second = moment(there, [WriteSite(layer)], n_tokens=n_tokens(here))
    figures = {}
    for key, work in (
        ("gpu_trace", lambda model: traced(model, cases[0])),
        ("gpu_rome", lambda model: edited(model, cases[:1], layer, second)),
        ("gpu_score", lambda model: scored(model, cases)),
    ):
        # the CPU's times are long and vary little
        slow = seconds(partial(work, here), 1, warm_up=False)
        fast = seconds(synchronised(there, partial(work, there)), rounds)
        figures[key] = slow / fast
        print(f"{key}: {fast:.3f} s on the device, {slow:.2f} s on the CPU, {slow / fast:.1f}x")
    return figures


def against_hooks(
    model: HookedTransformer, case: EditCase, quick: bool, rounds: int
) -> dict[str, float]:
    """Compares a sweep of resid_post with hooks on the device: cell by cell, and 32 at a time."""
    fact = case.entity.fact
    clean = Run(encode(model, fact).tokens[None])
    # another text of the same length, so that the corrupted run needs no hook of its own
    corrupted = Run(torch.cat([clean.tokens[:, :1], clean.tokens[:, 1:].flip(1)], 1))
    n_pos, n_layers = clean.tokens.shape[1], model.cfg.n_layers
    cells = [(layer, pos) for layer in range(n_layers) for pos in range(n_pos)]
    question = question_of(model, int(clean.tokens[0, -1]), corrupted.states(model))

    def ours() -> Tensor:
        states = clean.states(model), corrupted.states(model)
        return sweep(model, *states, Patch("resid_post"), question).restored

    some = cells[:: max(1, len(cells) // (4 if quick else 24))]
    fast = seconds(synchronised(model, ours), rounds)
    one_by_one = partial(cell_by_cell, model, clean, corrupted, some)
    plain = len(cells) / len(some) * seconds(synchronised(model, one_by_one), rounds)
    whole = partial(in_batches, model, clean, corrupted, cells, question)
    batched = seconds(synchronised(model, whole), rounds)
    off = float((whole() - ours().flatten(1).to(device(model))).abs()[1].max())
    print(
        f"resid_post, {len(cells)} cells, 1 sample: {fast:.3f} s; a hooked forward pass per cell "
        f"{plain:.2f} s ({plain / fast:.1f}x), {CELLS} cells per forward pass {batched:.3f} s "
        f"({batched / fast:.1f}x); log-probabilities differ by at most {off:.1e}"
    )
    assert off < AGREE
    return {"hooked": plain / fast, "batched": batched / fast}


@torch.no_grad()
def cell_by_cell(
    model: HookedTransformer, clean: Run, corrupted: Run, cells: Sequence[tuple[int, int]]
) -> Tensor:
    """The plain way: one hooked forward pass per cell, with all logits."""
    _, cache = model.run_with_cache(clean.tokens)
    found = []
    for cell in cells:
        hooks = twins.cell_hooks(model, Patch("resid_post"), cell, cache, cache)
        found.append(model.run_with_hooks(corrupted.tokens, fwd_hooks=hooks)[0, -1].softmax(-1))
    return torch.stack(found)


@torch.no_grad()
def in_batches(
    model: HookedTransformer,
    clean: Run,
    corrupted: Run,
    cells: Sequence[tuple[int, int]],
    question: AnswerMetric,
) -> Tensor:
    """A better way with hooks: many cells per forward pass, logits of the last position only."""
    _, cache = model.run_with_cache(clean.tokens)
    found = []
    for start in range(0, len(cells), CELLS):
        batch = cells[start : start + CELLS]
        hooks = []
        for layer in {layer for layer, _ in batch}:
            rows = [row for row, cell in enumerate(batch) if cell[0] == layer]
            name = get_act_name("resid_post", layer)
            hooks.append((name, restoring(cache[name], rows, [batch[row][1] for row in rows])))
        tokens = corrupted.tokens.expand(len(batch), -1)
        resid = model.run_with_hooks(tokens, fwd_hooks=hooks, stop_at_layer=model.cfg.n_layers)
        found.append(question.scores(model, resid[:, -1]))
    return torch.cat(found, 1)


def restoring(clean: Tensor, rows: list[int], positions: list[int]) -> Callable:
    def hook(act: Tensor, hook: object) -> Tensor:
        act[rows, positions] = clean[0, positions]
        return act

    return hook


def against_one_by_one(
    model: HookedTransformer, cases: Sequence[EditCase], layer: int, rounds: int
) -> dict[str, float]:
    """Compares training values together with training one after the other."""
    training, slots = Training(stop=0.0), [Slot(layer, "mlp")]
    problems = [training_rows(model, case.entity, CONTEXTS, "subject_last") for case in cases]
    one_by_one = seconds(
        synchronised(model, lambda: [train(model, rows, slots, training) for rows in problems]),
        rounds,
    )
    fast = seconds(synchronised(model, lambda: train_all(model, problems, slots, training)), rounds)
    print(
        f"{len(problems)} values trained together in {fast:.2f} s, one after the other in "
        f"{one_by_one:.2f} s ({one_by_one / fast:.1f}x)"
    )
    return {"together": one_by_one / fast}


def memory(model: HookedTransformer, case: EditCase) -> dict[str, float]:
    """The most memory that PyTorch allocates during a trace, as a ratio to the weights'."""
    on = device(model)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    before = torch.cuda.memory_allocated(on)
    torch.cuda.reset_peak_memory_stats(on)
    traced(model, case)
    most = torch.cuda.max_memory_allocated(on) - before + weights
    print(f"a trace needs {most / 2**20:.0f} MiB with the weights' {weights / 2**20:.0f} MiB")
    return {"memory": most / weights}


if __name__ == "__main__":
    main()
