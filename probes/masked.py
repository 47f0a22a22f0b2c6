"""Activation patching in masked models (BERT, T5), by the same cells and scores as in decoders.

A sweep restores each cell of a tower (`kedit.forward.masked`) alone. T5 has two towers, and so a
grid for the encoder and one for the decoder, whose columns are the decoder's tokens: they come
after the encoder's in the prompt's labels.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from kedit.errors import InputError
from kedit.forward.masked import (
    ATTENTION,
    Cell,
    Half,
    Held,
    MaskedStates,
    Past,
    Tower,
    TowerStates,
    added,
    encoded,
    half_written,
    masked_states,
    raw_output,
    run_cells,
    towers,
)
from kedit.forward.metrics import OwnMetric
from kedit.forward.runs import Run
from kedit.models.masked import Masked
from kedit.models.masked_prompts import MaskedPrompt, decoder_ids
from kedit.models.sites import require_unhooked
from kedit.progress import progress
from kedit.results.grids import EffectGrid
from probes.patch import LEFT_OUT, ROWS_UNEMBEDDED, AnswerMetric, Patch

CROSS = {"attn_out": "cross_attn_out", "z": "cross_z"}


class Sweep(NamedTuple):
    """What is restored in one sweep.

    Args:
        number: the tower's index in `towers(model)`.
        site: "resid_post", "mlp_out", "attn_out", "cross_attn_out", "z" or "cross_z".
        patch: gives the window.
        severed: the half that is held at its corrupted values, or "".
    """

    number: int
    site: str
    patch: Patch
    severed: Half | Literal[""]


def masked_runs(
    model: Masked, prompt: MaskedPrompt, corrupted: Run
) -> tuple[MaskedStates, MaskedStates]:
    """Runs a prompt clean and corrupted, as one batch.

    Raises:
        InputError: the model has live hooks or switches, or the runs differ in length.
    """
    require_unhooked(model)
    if corrupted.tokens.shape[1] != len(prompt.tokens):
        raise InputError(
            f"the clean run has {len(prompt.tokens)} tokens, the corrupted run "
            f"{corrupted.tokens.shape[1]}: they must have the same number"
        )
    runs = [Run(prompt.tokens[None]), corrupted]
    decoder = decoder_ids(model, prompt)
    # T5 reads the answer at the end of its decoder
    read_at = len(decoder) - 1 if decoder else prompt.read_at
    clean, low = masked_states(model, runs, read_at, decoder)
    return clean, low


def sweeps(model: Masked, patches: Sequence[Patch]) -> list[Sweep]:
    """Lists the sweeps of `patches` over all towers.

    In T5's decoder, "attn_out" stands for self attention and for cross attention, each on its own,
    restored or severed; and "z" stands for the heads of both.
    """
    found = []
    for number, tower in enumerate(towers(model)):
        for patch in patches:
            found.append(Sweep(number, patch.site, patch, patch.severed))
            if "cross_attn_out" not in tower.halves:
                continue
            if patch.site in CROSS:
                found.append(Sweep(number, CROSS[patch.site], patch, ""))
            elif patch.severed == "attn_out":
                found.append(Sweep(number, patch.site, patch, "cross_attn_out"))
    return found


@torch.no_grad()
def masked_sweep(
    model: Masked,
    clean: MaskedStates,
    corrupted: MaskedStates,
    sweep: Sweep,
    question: AnswerMetric | OwnMetric,
    positions: Sequence[int] | None = None,
) -> EffectGrid:
    """Restores every cell (layer, position[, head]) of one tower alone, and scores the answer.

    The scores equal those of one hooked forward pass per cell (tests/masked_twins.py).

    Args:
        clean, corrupted: the states of both runs, from `masked_runs`.
        positions: positions of the tower to restore at; all if None.
    """
    number, site = sweep.number, sweep.site
    tower = towers(model)[number]
    n_layers, n_pos = tower.n_layers, clean.towers[number].resid[0].shape[1]
    is_last = number == len(clean.towers) - 1
    columns = tuple(range(n_pos)) if positions is None else tuple(positions)
    heads = (model.cfg.n_heads,) if site.endswith("z") else ()
    shape = torch.Size((n_layers, len(columns), *heads))

    def score(resid: Float[Tensor, "row d_model"]) -> Float[Tensor, "metric row"]:
        return question.scores(model, resid).cpu()

    low = score(corrupted.last).mean(1)
    restored = low[:, None].repeat(1, shape.numel())
    numbers = torch.arange(shape.numel()).view(shape).tolist()
    past = Past(model, encoded(model, corrupted.towers[0].resid[-1][None]) if number else None)
    cells = [
        Cell(cell, layer, pos, state, held_until)
        for column, pos in enumerate(columns)
        for layer, state, cell, held_until in _entries(
            tower, past, clean, corrupted, sweep, pos, [of_layer[column] for of_layer in numbers]
        )
        # nothing above the last layer could move the state to where the answer is read
        if not is_last or layer < n_layers - 1 or pos == corrupted.read_at
    ]
    held = _held(sweep, clean.towers[number], corrupted.towers[number])
    waiting: list[tuple[int, Tensor]] = []

    def unembed() -> None:
        if waiting:
            done, finals = zip(*waiting, strict=True)
            scores = score(torch.cat(finals)).unflatten(1, (len(done), -1))
            restored[:, list(done)] = scores.mean(2)
            waiting.clear()

    for done in run_cells(model, corrupted, number, cells, held):
        waiting.append(done)
        if len(waiting) * len(done[1]) >= ROWS_UNEMBEDDED:
            unembed()
    unembed()
    first = sum(states.resid[0].shape[1] for states in clean.towers[:number])
    return EffectGrid(
        site=tower.site(site),
        window=sweep.patch.window,
        severed=sweep.severed,
        positions=tuple(first + pos for pos in columns),
        restored=restored.view(len(question.metrics), *shape),
        clean=score(clean.last)[:, 0],
        corrupted=low,
        metrics=question.metrics,
    )


def every_sweep(
    model: Masked,
    states: tuple[MaskedStates, MaskedStates],
    patches: Sequence[Patch],
    question: AnswerMetric | OwnMetric,
    positions: Sequence[int] | None,
    severed_at: Sequence[int] | None,
    n_decoder: int | None = None,
) -> dict[str, EffectGrid]:
    """Runs all sweeps of `patches`, with a progress bar; returns the grids by name.

    Args:
        states: of the clean and of the corrupted run.
        positions, severed_at: positions of BERT or of T5's encoder at which ordinary and severed
            sweeps restore; all if None.
        n_decoder: how many tokens of T5's decoder are restored; all if None.
    """
    grids = {}
    with progress("sweeps") as bars:
        for one in bars.track(sweeps(model, patches), description="restoring every cell"):
            columns = severed_at if one.severed else positions
            if one.number:
                columns = None if n_decoder is None else range(n_decoder)
            grid = masked_sweep(model, *states, one, question, columns)
            grids[grid.name] = grid
    return grids


def _held(sweep: Sweep, clean: TowerStates, corrupted: TowerStates) -> Held | None:
    """The half that is overwritten above the layer at which a cell enters."""
    if sweep.severed:
        return Held(sweep.severed, corrupted.written[sweep.severed])
    if sweep.site in clean.written:
        half = cast(Half, sweep.site)
        return Held(half, clean.written[half])
    return None


def _entries(
    tower: Tower,
    past: Past,
    clean: MaskedStates,
    corrupted: MaskedStates,
    sweep: Sweep,
    pos: int,
    cells: Sequence,
) -> Iterator[tuple[int, Float[Tensor, "sample d_model"], int, int]]:
    """Yields the layer and resid_post of each cell at `pos`, its number, and its last held layer.

    Args:
        cells: the numbers of the cells at this position, by layer (and by head).
    """
    site, patch, number = sweep.site, sweep.patch, sweep.number
    good, low = clean.towers[number], corrupted.towers[number]
    n_layers, n_samples = tower.n_layers, len(low.resid[0])

    def after(layer: int, half: Half, written: Float[Tensor, "row sample d_model"]) -> Tensor:
        """The resid_post of rows in which `half` writes `written` at `pos`."""
        resid = low.resid[layer][None, :, pos : pos + 1].expand(len(written), -1, -1, -1)
        at = tower.halves.index(half)
        block = tower.blocks[layer]
        for index, other in enumerate(tower.halves):
            if index < at:
                new = low.written[other][layer][None, :, pos : pos + 1]
            elif index == at:
                new = written[:, :, None]
            else:
                new = half_written(tower, block, other, resid, past)
            resid = added(tower, block, other, resid, new)
        return resid[:, :, 0]

    if site == "resid_post":
        for layer in range(n_layers):
            held_until = n_layers - 1 if sweep.severed else LEFT_OUT
            state = good.resid[layer + 1][:, pos].expand(n_samples, -1)
            yield layer, state, cells[layer], held_until
    elif site in low.written:
        half = cast(Half, site)
        for layer in range(n_layers):
            window = patch.layers(layer, n_layers)
            written = good.written[half][window[0]][:, pos].expand(n_samples, -1)
            yield window[0], after(window[0], half, written[None])[0], cells[layer], window[-1]
    else:
        half = "cross_attn_out" if site == CROSS["z"] else "attn_out"
        for layer in range(n_layers):
            attn = getattr(tower.blocks[layer], ATTENTION[half])
            z = low.z[half][layer][:, pos]
            change = torch.einsum("shd,hdm->hsm", good.z[half][layer][:, pos] - z, attn.W_O)
            states = after(layer, half, raw_output(attn, z) + change)
            for head, state in enumerate(states):
                yield layer, state, cells[layer][head], LEFT_OUT
