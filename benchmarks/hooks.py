"""How much faster is the trace of a fact than hooks on Hugging Face? python -m benchmarks.hooks

A whole trace: residuals, windows of MLP and of attention outputs, and every head, at 12 tokens with
one corrupted row. Compared are
  batched   an expert's way: hooks on the Hugging Face module, 32 cells in one forward, each row
            with its own restored cell, and logits of the last position only
  plain     the same hooks, one cell in a forward
  lens      one hooked forward per cell on a HookedTransformer as TransformerLens loads it, which
            computes all logits
All ways give the same scores, which is checked. Cells that are restored by hooks all cost the same,
so some are timed and their time is multiplied; ours restores all cells of the named positions.

Shapes: gpt2 (GPT-2 small), gemma (Gemma 3 270M), qwen (Qwen2 with 1.5 billion parameters: needs
14 GB of memory). The last line is JSON: the time of the other ways divided by ours.
"""

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from benchmarks._shapes import SHAPES, hugging_face
from benchmarks._timing import report, timed
from benchmarks.trace import hooked_cell_seconds
from kedit.forward.runs import Run, both_states
from kedit.models import toy
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from kedit.results.grids import EffectGrid
from probes.patch import AnswerMetric, Patch, sweep
from probes.trace import PAPER_WINDOW, patches_at

TOKENS, SPAN, ROWS = 12, 4, 32
QUESTION = AnswerMetric(5, 6)
AGREE = 1e-4  # largest difference of logit differences
NAMES = {"resid_post": "resid", "mlp_out": "mlp", "attn_out": "attn", "z": "heads"}
SITES = tuple(NAMES)


class Cell(NamedTuple):
    """A cell: its layer, position, and head (0 for sites without heads)."""

    layer: int
    pos: int
    head: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="gpt2")
    parser.add_argument("--quick", action="store_true", help="positions 1, 4, 7 and 10 only")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads; 1 to compare machines"
    )
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(options.threads)
    hf, name = hugging_face(options.shape)
    with quiet():
        model = hooked(hf, torch.float32)
    prepare(model, toy.tokenizer())  # any tokenizer will do: no text is read here
    # positions 1, 4, 7 and 10 cost a third of what all twelve do
    positions = tuple(range(1, TOKENS, 3) if options.quick else range(TOKENS))
    print(f"{name}, {options.threads} thread(s), {TOKENS} tokens, positions {positions}")
    report(compared(model, hf, positions))


def compared(model: HookedTransformer, hf: Any, positions: Sequence[int]) -> dict[str, float]:
    """Times all ways at every site; returns the ratios."""
    tokens, corrupted_tokens = random_texts(model)
    patches = patches_at(SITES, PAPER_WINDOW)
    runs = Run(tokens), Run(corrupted_tokens)
    trace(model, *runs, Patch("z"), positions[:1])  # warm up
    traced = [timed(partial(trace, model, *runs, patch, positions)) for patch in patches]
    figures: dict[str, float] = {}
    hooks = Restoring(hf, tokens, corrupted_tokens)
    spent: dict[str, float] = {}
    for patch, (grid, ours) in zip(patches, traced, strict=True):
        cells = cells_of(model, patch, positions)
        sample = cells[:: max(1, len(cells) // ROWS)][:ROWS]
        scores, batched = timed(partial(hooks.scores, patch, sample))
        require_equal(grid, sample, scores)
        singles = sample[len(sample) // 3 :][:3]
        plain = [timed(partial(hooks.scores, patch, [cell]))[1] for cell in singles]
        each = {
            "ours": ours / len(cells),
            "batched": batched / len(sample),
            "plain": sum(plain) / len(plain),
        }
        print(f"  {patch.site}, {len(cells)} cells, ms per cell:", end="")
        for way, time in each.items():
            spent[way] = spent.get(way, 0.0) + time * len(cells)
            figures[f"{NAMES[patch.site]}_{way}"] = time / each["ours"]
            print(f" {way} {1e3 * time:.1f} ({time / each['ours']:.1f}x)", end="")
        print(flush=True)
    for parameter in model.parameters():  # as TransformerLens itself stores them
        parameter.data = parameter.data.contiguous()
    few = [(layer, positions[0]) for layer in (0, model.cfg.n_layers // 2)]
    lens = hooked_cell_seconds(model, *runs, Patch("resid_post"), few)
    n_cells = sum(len(cells_of(model, patch, positions)) for patch in patches)
    spent["lens"] = n_cells * lens
    print(f"  a cell on a HookedTransformer as loaded: {1e3 * lens:.0f} ms")
    whole = {way: time / spent["ours"] for way, time in spent.items()}
    return {name: figure for name, figure in (figures | whole).items() if "ours" not in name}


def random_texts(model: HookedTransformer) -> tuple[Tensor, Tensor]:
    """Returns a text of random tokens, and the same with other tokens in the first places."""
    tokens = torch.randint(0, model.cfg.d_vocab, (1, TOKENS))
    other = torch.randint(0, model.cfg.d_vocab, (1, SPAN))
    return tokens, torch.cat([other, tokens[:, SPAN:]], 1)


def trace(
    model: HookedTransformer, clean: Run, corrupted: Run, patch: Patch, positions: Sequence[int]
) -> EffectGrid:
    """Our way: both runs, and the sweep of one site."""
    return sweep(model, *both_states(model, clean, corrupted), patch, QUESTION, positions)


def require_equal(grid: EffectGrid, cells: Sequence["Cell"], scores: Tensor) -> None:
    """Checks that both ways give the same scores, and that the cells differ in them."""
    ours = grid.restored[grid.metrics.index("logit_diff")]
    expected = torch.stack(
        [ours[cell.layer, grid.positions.index(cell.pos)].flatten()[cell.head] for cell in cells]
    )
    torch.testing.assert_close(scores, expected, atol=AGREE, rtol=0)
    assert expected.std() > 10 * AGREE, "all cells have the same score: nothing is compared"


def cells_of(model: HookedTransformer, patch: Patch, positions: Sequence[int]) -> list[Cell]:
    """Returns all cells of a site at these positions."""
    heads = range(model.cfg.n_heads if patch.site == "z" else 1)
    layers = range(model.cfg.n_layers)
    return [Cell(layer, pos, head) for layer in layers for pos in positions for head in heads]


class Restoring:
    """Restores cells by forward hooks on a Hugging Face module; each row has its own cell."""

    def __init__(self, hf: Any, clean: Tensor, corrupted: Tensor) -> None:
        self._hf, self._corrupted = hf, corrupted
        base = hf.transformer if hasattr(hf, "transformer") else hf.model
        blocks = base.h if hasattr(base, "h") else base.layers
        self._n_heads = hf.config.num_attention_heads
        self._modules: dict[str, list[torch.nn.Module]] = {
            "resid_post": list(blocks),
            "mlp_out": [getattr(b, "post_feedforward_layernorm", b.mlp) for b in blocks],
            "attn_out": [self._attention(block) for block in blocks],
            "z": [self._w_o(block) for block in blocks],
        }
        self._clean: dict[str, list[Tensor]] = {site: [] for site in self._modules}
        with self._hooks(
            (module, partial(self._keep, site))
            for site, modules in self._modules.items()
            for module in modules
        ):
            hf(clean, logits_to_keep=1)

    def scores(self, patch: Patch, cells: Sequence[Cell]) -> Tensor:
        """The logit difference of the last position with each cell restored, from one forward."""
        by_layer: dict[int, list[tuple[int, Cell]]] = {}
        for row, cell in enumerate(cells):
            for layer in patch.layers(cell.layer, len(self._modules["z"])):
                by_layer.setdefault(layer, []).append((row, cell))
        with self._hooks(
            (self._modules[patch.site][layer], partial(self._restore, patch.site, layer, restored))
            for layer, restored in by_layer.items()
        ):
            logits = self._hf(self._corrupted.expand(len(cells), -1), logits_to_keep=1).logits
        logits = logits[:, -1]
        return logits[:, QUESTION.answer] - logits[:, QUESTION.foil]

    def _hooks(self, hooks: Iterator) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for module, hook in hooks:
            is_input = module in self._modules["z"]
            register = (
                module.register_forward_pre_hook if is_input else module.register_forward_hook
            )
            stack.callback(register(hook).remove)
        return stack

    def _keep(self, site: str, module: object, *io: object) -> None:
        self._clean[site].append(_tensor(io[-1])[0].clone())

    def _restore(
        self, site: str, layer: int, restored: list[tuple[int, Cell]], module: object, *io: object
    ) -> None:
        rows, at = [row for row, _ in restored], [cell.pos for _, cell in restored]
        act, clean = _tensor(io[-1]), self._clean[site][layer]
        if site == "z":
            heads = [cell.head for _, cell in restored]
            act.view(*act.shape[:2], self._n_heads, -1)[rows, at, heads] = clean.view(
                len(clean), self._n_heads, -1
            )[at, heads]
        else:
            act[rows, at] = clean[at]

    @staticmethod
    def _attention(block: Any) -> torch.nn.Module:
        if hasattr(block, "post_feedforward_layernorm"):
            return block.post_attention_layernorm
        return block.attn if hasattr(block, "attn") else block.self_attn

    @staticmethod
    def _w_o(block: Any) -> torch.nn.Module:
        return block.attn.c_proj if hasattr(block, "attn") else block.self_attn.o_proj


def _tensor(io: Any) -> Tensor:
    """Returns the tensor among a module's inputs or outputs."""
    return io if isinstance(io, Tensor) else io[0]


if __name__ == "__main__":
    main()
