"""How fast is activation patching, compared with the usual ways? python -m benchmarks.trace

Most numbers are the time of another way, divided by ours.
At GPT-2 small's shape (random weights cost the same), 12 tokens, the first 4 corrupted:
  loop_*      ROME's way: per cell, a forward pass of the Hugging Face model, clean and noisy rows
  tl_*        transformer_lens.patching on a HookedTransformer as it is loaded, 1 corrupted row
  peak_share  time that an exact resid sweep would need at this machine's matmul peak, as a share
              of our time
and on Gemma 3 270M (its weights if the extra is installed, else random weights of its shape):
  gemma       one hooked forward pass per cell on a HookedTransformer as it is loaded
With --family bert or t5, at the shape of BERT base or T5 base (its encoder), 12 tokens:
  bert_*, t5_*  one hooked forward pass per cell on a HookedEncoder or HookedEncoderDecoder

All cells cost the same in a plain loop, so some are timed and their time is multiplied. The quick
run restores every third position for MLP and attention windows and every fourth for heads, uses
2 samples of 8 tokens on Gemma, and runs one round of each.
"""

import argparse
import contextlib
import copy
import io
from collections.abc import Sequence
from functools import partial

import torch
from transformer_lens import HookedTransformer, patching
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks._gpt2 import (
    HEADS,
    LAYERS,
    SAMPLES,
    SPAN,
    TOKENS,
    VOCAB,
    WINDOW,
    gpt2_small,
    needed_flops,
    noisy_runs,
    rome_cell,
)
from benchmarks._masked import on_masked
from benchmarks._shapes import hugging_face
from benchmarks._timing import matmul_peak, report, seconds
from kedit.forward.runs import Run, both_states
from kedit.models import toy
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from kedit.results.grids import EffectGrid
from probes.patch import AnswerMetric, Patch, sweep
from tests import twins

QUESTION = AnswerMetric(5, 6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer samples, cells and rounds")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads; 1 to compare machines"
    )
    parser.add_argument(
        "--family", choices=("decoder", "bert", "t5"), default="decoder", help="which models"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    if options.family != "decoder":
        report(on_masked(options.family, options.quick))
        return
    stock = gpt2_small()
    ready = prepare(copy.deepcopy(stock), toy.tokenizer())
    figures = loops(stock, ready, options.quick) | against_lens(stock, ready, options.quick)
    report(figures | {"gemma": on_gemma(options.quick)})


def loops(stock: HookedTransformer, ready: HookedTransformer, quick: bool) -> dict[str, float]:
    """Compares sweeps with ROME's loop, and with the machine's peak."""
    rounds = 1 if quick else 3
    hf = GPT2LMHeadModel(GPT2Config()).eval()
    clean, corrupted = noisy_runs(ready, SAMPLES)
    rows = torch.cat([clean.tokens, corrupted.tokens])
    plain = seconds(partial(rome_cell, hf, rows, 6, 5), 5 * rounds)
    lens = seconds(lambda: stock.run_with_hooks(rows, fwd_hooks=list(corrupted.hooks)), 2 * rounds)
    print(
        f"GPT-2 small's shape, {torch.get_num_threads()} thread(s). {SAMPLES} samples. A cell of "
        f"ROME's loop: {plain:.3f} s; the same on a HookedTransformer as loaded: {lens:.3f} s"
    )
    figures = {}
    for key, patch in (
        ("loop_resid", Patch("resid_post")),
        ("loop_mlp", Patch("mlp_out", WINDOW)),
        ("loop_attn", Patch("attn_out", WINDOW)),
    ):
        # positions 1, 4, 7, 10 cost a third of what all twelve do
        few = quick and patch.site != "resid_post"
        positions = range(1, TOKENS, 3) if few else range(TOKENS)
        before = matmul_peak(9)
        work = partial(whole_sweep, ready, clean, corrupted, patch, positions)
        ours = seconds(work, rounds, warm_up=patch.site == "resid_post" or not quick)
        peak = (before + matmul_peak(9)) / 2  # the clock rate drifts: measured before and after
        flops = needed_flops(patch, positions)
        cells = LAYERS * len(positions)
        figures[key] = cells * plain / ours
        print(
            f"  {patch.site}, {cells} cells: {ours:.2f} s, {cells * plain / ours:.1f}x ROME's loop "
            f"({cells * lens / ours:.1f}x HookedTransformer's); {flops / 1e9:.0f} GFLOP needed, "
            f"{flops / ours / peak:.0%} of the peak of {peak / 1e9:.0f} GFLOP/s"
        )
        if patch.site == "resid_post":
            figures["peak_share"] = flops / ours / peak
    return figures


def against_lens(
    stock: HookedTransformer, ready: HookedTransformer, quick: bool
) -> dict[str, float]:
    """Compares sweeps with transformer_lens.patching, for one corrupted row."""
    clean = Run(torch.randint(0, VOCAB, (1, TOKENS)))
    corrupted = Run(torch.cat([torch.randint(0, VOCAB, (1, SPAN)), clean.tokens[:, SPAN:]], dim=1))
    figures = {}
    for key, patch, lens, cells in (
        ("tl_resid", Patch("resid_post"), patching.get_act_patch_resid_pre, LAYERS * TOKENS),
        (
            "tl_heads",
            Patch("z"),
            patching.get_act_patch_attn_head_out_by_pos,
            LAYERS * TOKENS * HEADS,
        ),
    ):
        positions = tuple(range(0, TOKENS, 4 if quick and patch.site == "z" else 1))
        work = partial(whole_sweep, ready, clean, corrupted, patch, positions)
        ours = TOKENS / len(positions) * seconds(work, 1 if quick else 3, not quick)
        plain = {
            name: cells * lens_cell_seconds(lens, model, clean, corrupted, quick)
            for name, model in (("as loaded", stock), ("prepared by kedit", ready))
        }
        figures[key] = plain["as loaded"] / ours
        print(
            f"  {patch.site}, 1 sample: {ours:.2f} s; transformer_lens.patching, {cells} cells: "
            + ", ".join(f"{name} {time:.1f} s ({time / ours:.1f}x)" for name, time in plain.items())
        )
    return figures


def whole_sweep(
    model: HookedTransformer,
    clean: Run,
    corrupted: Run,
    patch: Patch,
    positions: Sequence[int] | None = None,
) -> EffectGrid:
    """Computes both runs and the sweep."""
    return sweep(model, *both_states(model, clean, corrupted), patch, QUESTION, positions)


def lens_cell_seconds(
    lens, model: HookedTransformer, clean: Run, corrupted: Run, quick: bool
) -> float:
    """Seconds per cell of a function of transformer_lens.patching, from a subset of its cells."""
    import pandas as pd

    _, cache = model.run_with_cache(clean.tokens)
    axes = lens.keywords["index_axis_names"]
    spread = range(0, LAYERS, 6 if quick else 2)
    index = pd.DataFrame(
        [
            {"layer": layer, "pos": (5 * layer) % TOKENS, "head": layer, "head_index": layer}
            for layer in spread
        ]
    )[list(axes)]
    patch_some = partial(lens.func, **{**lens.keywords, "index_axis_names": None})

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1].softmax(-1)[QUESTION.answer]

    with quiet(), contextlib.redirect_stderr(io.StringIO()):  # it shows a progress bar
        whole = seconds(
            lambda: patch_some(model, corrupted.tokens, cache, metric, index_df=index),
            1 if quick else 3,
            not quick,
        )
    return whole / len(index)


def on_gemma(quick: bool) -> float:
    """Compares a sweep on Gemma 3 270M with one hooked forward pass per cell."""
    samples, n_pos = (2, 8) if quick else (SAMPLES, TOKENS)
    hf, name = hugging_face("gemma")
    with quiet():
        model = hooked(hf, torch.float32)
    del hf
    prepare(model, toy.tokenizer())  # any tokenizer will do: no text is read here
    clean, corrupted = noisy_runs(model, samples, n_pos)
    patch = Patch("resid_post")
    cells = model.cfg.n_layers * n_pos
    ours = seconds(
        partial(whole_sweep, model, clean, corrupted, patch), 1 if quick else 3, not quick
    )
    timed_cells = [(8, 5)] if quick else [(2, 3), (6, 6), (10, 9), (15, 11)]  # layer, position
    if not quick:
        prepared = cells * hooked_cell_seconds(model, clean, corrupted, patch, timed_cells)
        print(f"  prepared by kedit, plain hooks need {prepared / ours:.1f}x our time")
    for parameter in model.parameters():  # as TransformerLens itself stores them
        parameter.data = parameter.data.contiguous()
    plain = cells * hooked_cell_seconds(model, clean, corrupted, patch, timed_cells)
    print(
        f"{name}, resid, {cells} cells, {samples} samples: {ours:.1f} s; plain "
        f"hooks as loaded {plain:.0f} s ({plain / ours:.1f}x)"
    )
    return plain / ours


def hooked_cell_seconds(
    model: HookedTransformer, clean: Run, corrupted: Run, patch: Patch, cells: list[tuple[int, int]]
) -> float:
    """Seconds per cell of the plain way: a whole forward pass with hooks."""
    _, cache = model.run_with_cache(clean.tokens)
    by_cell = [
        [*corrupted.hooks, *twins.cell_hooks(model, patch, cell, cache, cache)] for cell in cells
    ]
    whole = seconds(
        lambda: [model.run_with_hooks(corrupted.tokens, fwd_hooks=hooks) for hooks in by_cell],
        1,
        warm_up=False,
    )
    return whole / len(cells)


if __name__ == "__main__":
    main()
