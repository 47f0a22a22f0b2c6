"""Activation patching: restores one cell of a corrupted run at a time, and scores the answer.

A cell is one activation: a site at one layer and position. If the answer's score rises when the
clean value of a cell is put into the corrupted run, then the cell is sufficient to carry something
that the answer depends on. Sweeping all cells shows where in the model a fact is read, moved and
written (causal tracing: Meng et al. 2022; for practice, Zhang and Nanda 2023, arXiv 2309.16042).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.forward.metrics import METRICS, OwnMetric, answer_scores
from kedit.forward.patched import require_patchable, run_on
from kedit.forward.paths import Column, Hold, Trunk
from kedit.forward.runs import Held, States
from kedit.models.masked import AnyModel
from kedit.models.sites import head_written, is_parallel, mlp_out
from kedit.results.grids import EffectGrid

SITES = ("resid_post", "mlp_out", "attn_out", "z")
LEFT_OUT = -1  # in place of the number of a cell that should not be restored
# final residuals that are unembedded together, so that the large unembedding matrix is read once
ROWS_UNEMBEDDED = 1024


@dataclass(frozen=True)
class Patch:
    """What is restored to its clean value at each layer and position.

    Args:
        site: "resid_post", "mlp_out", "attn_out", or "z" (each head of the layer alone).
        window: number w of layers that are restored together around layer l. They are
            [l - w//2, l + (w-1)//2], clipped to the model; for 10, [l-5, l+4] as in Meng et al.'s
            code.
        severed: "mlp_out" or "attn_out" to hold this module's outputs at the restored position at
            their corrupted values in every layer. The effect that remains does not go through this
            module. Each sample is held at the values that its own noise gives. Meng et al.'s code
            instead draws noise anew for the second of two passes, so that it holds a sample at
            values that belong to other noise. Severed scores therefore differ from their code's;
            all other scores agree.

    Raises:
        InputError: the site is unknown, a site other than mlp_out and attn_out has a window above
            1, or a site other than resid_post is severed.
    """

    site: Literal["resid_post", "mlp_out", "attn_out", "z"]
    window: int = 1
    severed: Literal["", "mlp_out", "attn_out"] = ""

    def __post_init__(self) -> None:
        if self.site not in SITES:
            raise InputError(f"site {self.site!r}: must be one of {', '.join(SITES)}")
        if self.window < 1 or (self.window > 1 and self.site not in ("mlp_out", "attn_out")):
            raise InputError(
                f"window {self.window}: must be at least 1, and exactly 1 except for mlp_out and "
                "attn_out"
            )
        if self.severed not in ("", "mlp_out", "attn_out"):
            raise InputError(f"severed {self.severed!r}: must be mlp_out, attn_out or empty")
        if self.severed and self.site != "resid_post":
            raise InputError(
                f"severed {self.severed!r}: only resid_post can be severed, not {self.site}"
            )

    def layers(self, layer: int, n_layers: int) -> range:
        """The layers restored together around `layer`."""
        start = layer - self.window // 2
        return range(max(0, start), min(n_layers, start + self.window))


@dataclass(frozen=True)
class AnswerMetric:
    """Scores final residuals by one answer token, and by a foil for the metric logit_diff."""

    answer: int
    foil: int

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS

    def scores(
        self, model: AnyModel, resid: Float[Tensor, "row d_model"]
    ) -> Float[Tensor, "metric row"]:
        """Scores each final residual by all METRICS (see `kedit.forward.metrics.answer_scores`)."""
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
    other_weights: bool = False,
) -> EffectGrid:
    """Restores every cell (layer, position[, head]) alone and averages the score over samples.

    The scores equal those of one hooked forward pass per cell (tests/twins.py), at a fraction of
    the work: see `kedit.forward.patched`.

    Args:
        clean: states of the clean run, which has one row.
        corrupted: states of the corrupted run, one row per sample.
        question: the metric that scores final residuals.
        positions: positions to restore at, which are the grid's columns; all if None.
        cells: which of the prompt's cells to restore; all if None. Cells that are not restored get
            the corrupted run's score.
        other_weights: whether the clean run was made with other weights than the model has now,
            such as those of an edit (`probes.anatomy`). A cell's activation is then put into a run
            that goes on with the model's weights. Cells that are equal in both runs are not run.

    Raises:
        InputError: the runs differ in length, `cells` has another shape than the model's cells, the
            model has live hooks, or a user's metric does not give one finite number per row.
    """
    require_patchable(model)
    n_pos = clean.resid[0].shape[1]
    if corrupted.resid[0].shape[1] != n_pos:
        raise InputError(
            f"the clean run has {n_pos} tokens, the corrupted run {corrupted.resid[0].shape[1]}: "
            "they must have the same number"
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
    # before the first corrupted position both runs are equal, and restoring changes nothing
    first = touched.index(True) if True in touched else n_pos
    # from here on a restored residual continues as in the clean run; not with other weights
    as_clean = None if other_weights else first
    if other_weights:
        first = 0  # they can change any position
    number = torch.arange(torch.Size(shape).numel()).view(shape)
    if cells is not None:
        whole = (model.cfg.n_layers, n_pos, *heads)
        if cells.shape != whole:
            raise InputError(f"cells of shape {tuple(cells.shape)}: must have shape {whole}")
        number = torch.where(cells[:, list(columns)], number, LEFT_OUT)
    if other_weights and not patch.severed:  # below the lowest weight that differs, all are equal
        differs = _differing(clean, corrupted, patch)[:, list(columns)]
        number = torch.where(differs, number, LEFT_OUT)
    waiting: list[tuple[int, Tensor]] = []  # cells' numbers and final residuals, not yet scored

    def unembed() -> None:
        if waiting:
            cells, finals = zip(*waiting, strict=True)
            restored[:, list(cells)] = (
                score(torch.cat(finals)).unflatten(1, (len(cells), -1)).mean(2)
            )
            waiting.clear()

    patched = (
        _column(model, clean, corrupted, patch, pos, pos == as_clean, number[:, index])
        for index, pos in enumerate(columns)
        if pos >= first
    )
    for done in run_on(model, corrupted, (column for column in patched if column.trunks)):
        waiting.append(done)
        if len(waiting) * len(done[1]) >= ROWS_UNEMBEDDED:
            unembed()
    unembed()
    end = n_pos - 1
    if patch.site == "resid_post" and not patch.severed and as_clean == end and end in columns:
        # Only the last position, where the answer is read, is corrupted. All positions before it
        # are clean, so its restored residual continues exactly as in the clean run, whose score is
        # known. `_column` has left these cells out: no position after them needs to be run.
        column = columns.index(end)
        requested = number[:, column] != LEFT_OUT
        restored.view(len(question.metrics), *shape)[:, requested, column] = clean_score[:, None]
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


def _differing(clean: States, corrupted: States, patch: Patch) -> Bool[Tensor, "layer pos *head"]:
    """Which cells have another value in the clean run, so that restoring them can change a score.

    A cell with a window differs if the output of one of its layers does.
    """
    ours, theirs = (
        {"resid_post": run.resid[1:], "z": run.z}.get(patch.site)
        or run.written(cast(Held, patch.site))
        for run in (clean, corrupted)
    )
    each = torch.stack(
        [(one != other).any(-1).any(0) for one, other in zip(ours, theirs, strict=True)]
    ).cpu()
    n_layers = len(each)
    windows = [list(patch.layers(layer, n_layers)) for layer in range(n_layers)]
    return torch.stack([each[layers].any(0) for layers in windows])


def _column(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patch: Patch,
    pos: int,
    is_first: bool,
    number: Int[Tensor, "layer *head"],
) -> Column:
    """Builds the column of all requested cells at one position, for `run_on`.

    A cell of layer l is run from layer l+1 on, at its position and those after it. Earlier
    positions cannot see it, and their keys and values come from the corrupted run. If resid_post is
    restored at the first corrupted position, even that position need not be run, because it sees
    only clean positions and therefore equals the clean run above layer l:

        position    pos-1      pos (first corrupted)      pos+1 ...
        layer l+1   clean      clean                      run, with clean keys and values before it
        layer l     clean      restored = clean           corrupted
        below       clean      corrupted                  corrupted

    A cell in the last layer is left out except at the last position: nothing above it could move
    its value to the position at which the answer is read, so its score is the corrupted run's.
    """
    n_layers = model.cfg.n_layers
    n_samples, n_pos = corrupted.resid[0].shape[:2]
    begin, hold, before = pos, None, None
    if patch.severed:
        hold = Hold(patch.severed, tuple(out[:, pos] for out in corrupted.written(patch.severed)))
    elif patch.site in ("mlp_out", "attn_out"):
        hold = Hold(patch.site, tuple(out[:, pos] for out in clean.written(patch.site)))
    elif patch.site == "resid_post" and is_first:
        begin, before = pos + 1, clean
    trunks = [
        # the slice is empty if `begin` is pos + 1: then no state is put in
        Trunk(layer, state.expand(n_samples, -1)[:, None][:, : pos + 1 - begin], requested)
        for layer, state, cells in _entries(model, clean, corrupted, patch, pos, number)
        if (requested := tuple(cell for cell in cells if cell[0] != LEFT_OUT))
        if (layer < n_layers - 1 or pos == n_pos - 1) and begin < n_pos
    ]
    return Column(begin, tuple(trunks), hold, before)


# a layer, the state that replaces its resid_post, and pairs (cell's number, last held layer)
Entry = tuple[int, Float[Tensor, "sample d_model"], tuple[tuple[int, int], ...]]


def _entries(
    model: HookedTransformer,
    clean: States,
    corrupted: States,
    patch: Patch,
    pos: int,
    number: Int[Tensor, "layer *head"],
) -> Iterator[Entry]:
    """Yields the states that enter the residual stream at `pos`, with the cells that share each.

    The state of layer l is the resid_post that layer has once the cell's activation is restored; it
    is computed here, so that the run starts at layer l+1. Cells whose runs are equal up to some
    layer share one entry until then: windows that start at the same layer, because the model's
    first layer clips them, differ only in the last layer at which their outputs are held.

        layer         0     1     2     3     4        window 4: [l-2, l+1], clipped
        cell l = 0   held  held  free  free  free
        cell l = 1   held  held  held  free  free      these three start at layer 0: one entry
        cell l = 2   held  held  held  held  free
        cell l = 3         held  held  held  held      an entry of its own

    Nothing is held after a restored residual or z, except by a severed patch: it holds a module's
    corrupted outputs up to the last layer.
    """
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
            states = _after_attention(model, corrupted, layer, pos, written.flatten(0, 1))
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
                state = _after_attention(model, corrupted, start, pos, written)
            yield start, state, tuple(ends)


def _after_attention(
    model: HookedTransformer,
    corrupted: States,
    layer: int,
    pos: int,
    written: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """The corrupted run's resid_post at `pos` if attention in this layer had written `written`.

    A sequential block's MLP reads what attention wrote, so it is run again. A parallel block's MLP
    reads the same input as attention, so its output stays corrupted.
    """
    block = model.blocks[layer]
    copies = len(written) // len(corrupted.resid[0])
    resid_pre = corrupted.resid[layer][:, pos].repeat(copies, 1)
    mid = resid_pre + written
    if is_parallel(block):
        return mid + corrupted.mlp_out[layer][:, pos].repeat(copies, 1)
    return mid + mlp_out(block, mid[None])[0]
