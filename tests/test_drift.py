"""Perplexity and KL on text that has nothing to do with an edit."""

from pathlib import Path

import pytest
import torch
from transformer_lens import HookedTransformer

from kedit.errors import InputError
from kedit.scoring.drift import WINDOW, baseline, drift, held_out, surprise
from tests.conftest import FamilyOf

TEXT = "Ada Alder was born in Corum. Bruno Birch plays the old harp.\n" * 60


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return str(file)


@torch.no_grad()
def test_an_unchanged_model_does_not_drift_and_a_changed_one_does(
    toy: HookedTransformer, text: str
) -> None:
    before = baseline(toy, held_out(toy, text, n_chunks=3))
    same = drift(toy, before)
    assert torch.equal(same.before, same.after)
    assert not same.kl.any()
    weight = toy.blocks[1].mlp.W_out
    kept = weight.clone()
    weight.mul_(3)
    changed = drift(toy, before)
    weight.copy_(kept)
    assert (changed.kl > 0.01).all()
    assert changed.perplexity[0] == same.perplexity[0] != changed.perplexity[1]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_both_numbers_by_hand(family: FamilyOf, name: str) -> None:
    model = family(name).model
    chunks = torch.arange(2, 42).reshape(2, 20)
    before = baseline(model, chunks)
    old = model(chunks, attention_mask=torch.ones_like(chunks)).double().log_softmax(-1)[:, :-1]
    nll = -old.gather(2, chunks[:, 1:, None])[..., 0].mean(1)
    torch.testing.assert_close(before.nll.mean(1).double(), nll, atol=1e-4, rtol=0)
    assert torch.equal(surprise(model, chunks), before.nll)
    weight = model.blocks[2].mlp.W_out
    kept = weight.clone()
    weight.copy_(weight.roll(1, 0))  # not scaled: a post-norm would take that back
    now = model(chunks, attention_mask=torch.ones_like(chunks)).double().log_softmax(-1)[:, :-1]
    found = drift(model, before)
    weight.copy_(kept)
    kl = (old.exp() * (old - now)).sum(-1).mean(1)
    assert kl.min() > 1e-3  # the change shows
    torch.testing.assert_close(found.kl.double(), kl, atol=1e-4, rtol=1e-3)


def test_chunks_open_with_bos_and_lie_evenly_over_the_text(
    toy: HookedTransformer, text: str
) -> None:
    chunks = held_out(toy, text, n_chunks=4)
    width = min(WINDOW + 1, toy.cfg.n_ctx)
    assert chunks.shape == (4, width)
    assert (chunks[:, 0] == 0).all() and not (chunks[:, 1:] == 0).any()
    assert held_out(toy, text, n_chunks=10_000).numel() > chunks.numel()
    assert held_out(toy, text, n_chunks=4, chunk_tokens=5).shape == (4, 5 + 1)


def test_without_a_file_the_model_speaks_for_itself(toy: HookedTransformer) -> None:
    chunks = held_out(toy, "", n_chunks=3, seed=1)
    assert chunks.shape == (3, toy.cfg.n_ctx)
    assert torch.equal(chunks, held_out(toy, "", n_chunks=3, seed=1))
    assert not torch.equal(chunks, held_out(toy, "", n_chunks=3, seed=2))


def test_text_that_cannot_be_used_is_refused(toy: HookedTransformer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent.txt: cannot be read"):
        held_out(toy, str(tmp_path / "absent.txt"))
    short = tmp_path / "short.txt"
    short.write_text("too short", encoding="utf-8")
    with pytest.raises(InputError, match=r"^\S*short.txt: has \d+ tokens, needs at least 63"):
        held_out(toy, str(short))
