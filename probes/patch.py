"""Activation patching: restore one cell of a corrupted run at a time, and see what comes back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, OwnMetric, answer_scores
from kedit.forward.patched import require_patchable, run_on
from kedit.forward.paths import Column, Hold, Trunk
from kedit.forward.runs import States
from kedit.models.sites import head_written, is_parallel, mlp_out
from kedit.results.grids import EffectGrid

SITES = ("resid_post", "mlp_out", "attn_out", "z")
LEFT_OUT = -1  # number of a cell that is not asked for
ROWS_UNEMBEDDED = 1024  # together: the unembedding matrix is read once for all of them


@dataclass(frozen=True)
class Patch:
    """What is restored to its clean value at each layer and position.

    Args:
        site: "resid_post", "mlp_out", "attn_out", or "z" (then each head of the layer by itself).
        window: layers around each layer that are restored together, [l - w//2, l + (w-1)//2]
            clipped to the model (for 10: [l-5, l+4], as Meng et al.'s code has it).
        severed: hold the MLP's or the attention's output at that position, in every layer, at its
            corrupted value: what then remains of the effect goes another way. Each sample is held
            at the values of its own noise. Meng et al.'s code seeds once for two passes, so that a
            sample is held at values of the first pass under noise that is drawn for the second:
            severed scores are not those of their code, all others are.

    Raises:
        InputError: an unknown site, a window where one layer is meant, severing another site.
    """

    site: Literal["resid_post", "mlp_out", "attn_out", "z"]
    window: int = 1
    severed: Literal["", "mlp_out", "attn_out"] = ""

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise InputError(f"site {self.site!r}: one of {', '.join(SITES)} is wanted")
        if self.window < 1 or (self.window > 1 and self.site not in ("mlp_out", "attn_out")):
            raise InputError(f"window {self.window}: only mlp_out and attn_out take more than 1")
        if self.severed not in ("", "mlp_out", "attn_out"):
            raise InputError(f"severed {self.severed!r}: mlp_out, attn_out or nothing is wanted")
        if self.severed and self.site != "resid_post":
            raise InputError(f"severing {self.severed} is defined for resid_post, not {self.site}")

    def layers(self, layer: int, n_layers: int) -> range:
        """The layers restored together around `layer`."""
        start = layer - self.window // 2
        return range(max(0, start), min(n_layers, start + self.window))


@dataclass(frozen=True)
class AnswerMetric:
    """Which token is the answer, and which the wrong one that it is held against (logit_diff)."""

    answer: int
    foil: int

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS

    def scores(
        self, model: HookedTransformer, resid: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "metric row"]:
        """Of each final residual, as `kedit.forward.metrics.answer_scores`."""
        return answer_scores(model, resid, self.answer, self.foil)


@torch.no_grad()
def sweep(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patch: Patch,
    question: AnswerMetric | OwnMetric,
    positions: Sequence[int] | None = None,
    cells: Bool[Tensor, "layer pos *head"] | None = None,
) -> EffectGrid:
    """The mean score over samples with each (layer, position[, head]) cell restored.

    The same numbers as one hooked forward a cell (tests/twins.py), at a fraction of the work: see
    `kedit.forward.patched`.

    Args:
        clean: states of the clean run: one row.
        corrupted: states of the corrupted run: one row a sample.
        question: what the scores are of.
        positions: which columns to compute; all of the prompt's if None.
        cells: which of the prompt's cells to restore; all if None. The others keep the corrupted
            score.

    Raises:
        InputError: runs of different lengths, cells of another shape, a model with live hooks, or
            scores of a metric of one's own that are not one finite number a row.
    """
    require_patchable(model)
    n_pos = clean.resid[0].shape[1]
    if corrupted.resid[0].shape[1] != n_pos:
        raise InputError(
            f"the clean run has {n_pos} tokens, the corrupted one {corrupted.resid[0].shape[1]}"
        )
    columns = tuple(range(n_pos)) if positions is None else tuple(positions)

    def score(resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "metric row"]:
        return question.scores(model, resid).cpu()

    clean_score = score(clean.last)[:, 0]
    corrupted_score = score(corrupted.last).mean(1)
    heads = (model.cfg.n_heads,) if patch.site == "z" else ()
    shape = (model.cfg.n_layers, len(columns), *heads)
    restored = corrupted_score[:, None].repeat(1, torch.Size(shape).numel())

    touched = (clean.resid[0] != corrupted.resid[0]).any(-1).any(0).tolist()
    first = touched.index(True) if True in touched else n_pos  # before it the runs are one
    number = torch.arange(torch.Size(shape).numel()).view(shape)
    if cells is not None:
        whole = (model.cfg.n_layers, n_pos, *heads)
        if cells.shape != whole:
            raise InputError(f"cells of shape {tuple(cells.shape)}: {whole} is wanted")
        number = torch.where(cells[:, list(columns)], number, LEFT_OUT)
    waiting: list[tuple[int, Tensor]] = []

    def unembed() -> None:
        if waiting:
            cells, finals = zip(*waiting, strict=True)
            restored[:, list(cells)] = (
                score(torch.cat(finals)).unflatten(1, (len(cells), -1)).mean(2)
            )
            waiting.clear()

    patched = (
        _column(model, clean, corrupted, patch, pos, pos == first, number[:, index])
        for index, pos in enumerate(columns)
        if pos >= first
    )
    for done in run_on(model, corrupted, (column for column in patched if column.trunks)):
        waiting.append(done)
        if len(waiting) * len(done[1]) >= ROWS_UNEMBEDDED:
            unembed()
    unembed()
    if patch.site == "resid_post" and not patch.severed and first == n_pos - 1 in columns:
        column = columns.index(first)
        asked = number[:, column] != LEFT_OUT
        restored.view(len(question.metrics), *shape)[:, asked, column] = clean_score[:, None]
    return EffectGrid(
        site=patch.site,
        window=patch.window,
        severed=patch.severed,
        positions=columns,
        restored=restored.view(len(question.metrics), *shape),
        clean=clean_score,
        corrupted=corrupted_score,
        metrics=question.metrics,
    )


def _column(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patch: Patch,
    pos: int,
    is_first: bool,
    number: Int[Tensor, "layer *head"],
) -> Column:
    """The cells at one position, by their numbers in the grid, without those that cannot matter."""
    n_layers = model.cfg.n_layers
    n_samples, n_pos = corrupted.resid[0].shape[:2]
    begin, hold, before = pos, None, None
    if patch.severed:
        hold = Hold(patch.severed, tuple(out[:, pos] for out in corrupted.written(patch.severed)))
    elif patch.site in ("mlp_out", "attn_out"):
        hold = Hold(patch.site, tuple(out[:, pos] for out in clean.written(patch.site)))
    elif patch.site == "resid_post" and is_first:
        # all that this position's restored state sees is clean: so is its column from there on
        begin, before = pos + 1, clean
    trunks = [
        Trunk(layer, state.expand(n_samples, -1)[:, None][:, : pos + 1 - begin], asked)
        for layer, state, cells in _entries(model, clean, corrupted, patch, pos, number)
        if (asked := tuple(cell for cell in cells if cell[0] != LEFT_OUT))
        if (layer < n_layers - 1 or pos == n_pos - 1) and begin < n_pos
    ]
    return Column(begin, tuple(trunks), hold, before)


Entry = tuple[int, Float[Tensor, "sample d_model"], tuple[tuple[int, int], ...]]


def _entries(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patch: Patch,
    pos: int,
    number: Int[Tensor, "layer *head"],
) -> Iterator[Entry]:
    """What enters at `pos`: behind which layer, which state, each cell with its last held layer."""
    n_layers = model.cfg.n_layers
    cells = number.tolist()
    if patch.site == "resid_post":
        for layer in range(n_layers):
            end = n_layers - 1 if patch.severed else layer
            yield layer, clean.resid[layer + 1][:, pos], ((cells[layer], end),)
    elif patch.site == "z":
        for layer, block in enumerate(model.blocks):
            if all(cell == LEFT_OUT for cell in cells[layer]):
                continue
            written = head_written(block, corrupted.z[layer][:, pos], clean.z[layer][:, pos])
            states = _behind_attention(model, corrupted, layer, pos, written.flatten(0, 1))
            for head, state in enumerate(states.unflatten(0, written.shape[:2])):
                yield layer, state, ((cells[layer][head], layer),)
    else:
        starts: dict[int, list[tuple[int, int]]] = {}
        for layer in range(n_layers):
            window = patch.layers(layer, n_layers)
            starts.setdefault(window[0], []).append((cells[layer], window[-1]))
        for start, ends in starts.items():
            if patch.site == "mlp_out":
                mid = corrupted.resid[start][:, pos] + corrupted.attn_out[start][:, pos]
                state = mid + clean.mlp_out[start][:, pos]
            else:
                written = clean.attn_out[start][:, pos].expand(len(corrupted.resid[0]), -1)
                state = _behind_attention(model, corrupted, start, pos, written)
            yield start, state, tuple(ends)


def _behind_attention(
    model: HookedTransformer,
    corrupted: States,
    layer: int,
    pos: int,
    written: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """The corrupted run's resid_post at one position, had its attention written `written` there."""
    block = model.blocks[layer]
    copies = len(written) // len(corrupted.resid[0])
    resid_pre = corrupted.resid[layer][:, pos].repeat(copies, 1)
    mid = resid_pre + written
    if is_parallel(block):
        return mid + corrupted.mlp_out[layer][:, pos].repeat(copies, 1)
    return mid + mlp_out(block, mid[None])[0]
