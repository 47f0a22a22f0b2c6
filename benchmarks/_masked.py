"""Times sweeps of BERT and T5 against one hooked forward pass per cell."""

from functools import partial
from typing import Any

import torch
from transformers import BertConfig, BertForPreTraining, T5Config, T5ForConditionalGeneration

from benchmarks._shapes import random_weights
from benchmarks._timing import seconds
from kedit.forward.masked import towers
from kedit.forward.runs import Run
from kedit.models import masked_toys
from kedit.models.load import prepare, quiet
from kedit.models.masked import Masked
from kedit.models.masked_loading import hooked_masked
from kedit.models.masked_prompts import MaskedPrompt
from probes.masked import Sweep, masked_runs, masked_sweep
from probes.patch import AnswerMetric, Patch
from tests import masked_twins

WINDOW = 10  # layers, as in the papers
TOKENS, SPAN, MASK_AT = 12, slice(1, 4), 9
QUESTION = AnswerMetric(5, 6)


def on_masked(family: str, quick: bool) -> dict[str, float]:
    """Compares sweeps at the shape of BERT base or T5 base with the slow twin's cells.

    Args:
        family: "bert" or "t5".
    """
    model, prompt, corrupted = _ready(family)
    tower = towers(model)[0]
    figures = {}
    for site, patch in (
        ("resid_post", Patch("resid_post")),
        ("mlp_out", Patch("mlp_out", WINDOW)),
        ("z", Patch("z")),
    ):
        positions = list(range(0, TOKENS, 4 if quick or site == "z" else 1))
        sweep = Sweep(0, site, patch, "")
        work = partial(_whole_sweep, model, prompt, corrupted, sweep, positions)
        ours = seconds(work, 1 if quick else 3)
        heads = model.cfg.n_heads if site == "z" else 1
        n_cells = tower.n_layers * len(positions) * heads
        cell = _cell_seconds(model, prompt, corrupted, site, 2 if quick else 6)
        figures[f"{family}_{site}"] = n_cells * cell / ours
        print(
            f"{family} base's shape, {site}, {n_cells} cells: {ours:.2f} s; one hooked forward per "
            f"cell {n_cells * cell:.1f} s ({n_cells * cell / ours:.1f}x)"
        )
    return figures


def _ready(family: str) -> tuple[Masked, MaskedPrompt, Run]:
    """A model of random weights, a prompt of random tokens, and a corrupted run."""
    with quiet():
        if family == "bert":
            hf = random_weights(BertForPreTraining, BertConfig(vocab_size=28_996))
        else:
            names: Any = {"decoder_start_token_id": 0, "n_positions": 512}
            config = T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, **names)
            hf = random_weights(T5ForConditionalGeneration, config)
        words = masked_toys.model(f"toy-{family}")[1]  # no text is read here
        model = prepare(hooked_masked(hf, torch.float32), words)
    tokens = torch.randint(5, 200, (TOKENS,))
    labels = ("",) * (TOKENS + 2 * (family == "t5"))
    prompt = MaskedPrompt(tokens, labels, (1, 4), (), (QUESTION.answer,), masks=(MASK_AT,))
    other = tokens.clone()
    other[SPAN] = torch.randint(5, 200, (3,))
    return model, prompt, Run(other[None])


def _whole_sweep(
    model: Masked, prompt: MaskedPrompt, corrupted: Run, sweep: Sweep, positions: list[int]
) -> None:
    states = masked_runs(model, prompt, corrupted)
    masked_sweep(model, *states, sweep, QUESTION, positions)


def _cell_seconds(
    model: Masked, prompt: MaskedPrompt, corrupted: Run, site: str, n_cells: int
) -> float:
    """Seconds per cell of the slow twin, whose cells all cost the same."""
    tower = towers(model)[0]
    clean, _ = masked_runs(model, prompt, corrupted)
    state = clean.towers[0].resid[1]

    def put_back(act: torch.Tensor, hook: object) -> torch.Tensor:
        act = act.clone()
        act[:, 2] = state[:, 2] if site != "z" else 0.0
        return act

    hooks: list = [(masked_twins.hook_of(tower, site, 3), put_back)]
    work = partial(masked_twins.logits, model, prompt, corrupted, hooks)
    return seconds(work, n_cells)
