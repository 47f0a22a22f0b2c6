"""Scores without a row of logits for every prompt, against softmax over all logits."""

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.forward import metrics
from kedit.forward.metrics import (
    METRICS,
    answer_scores,
    last_logits,
    likeliest,
    losses_and_slope,
    token_bounds,
    token_scores,
    unembedded,
)
from tests.conftest import FAMILIES, FamilyOf

ANSWER, FOIL = 300, 17


def finals(model: HookedTransformer, n_rows: int) -> Float[Tensor, "row d_model"]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(n_rows, model.cfg.d_model, generator=generator)


def by_hand(model: HookedTransformer, resid: Tensor) -> Float[Tensor, "metric row"]:
    logits = model.unembed(model.ln_final(resid[None]))[0].double()
    cap = model.cfg.output_logits_soft_cap
    logits = cap * torch.tanh(logits / cap) if cap > 0 else logits
    logprob = logits.log_softmax(-1)[:, ANSWER]
    gap = logits[:, ANSWER] - logits[:, FOIL]
    return torch.stack([logits.softmax(-1)[:, ANSWER], logprob, gap]).float()


def test_the_metrics_and_their_order():
    assert METRICS == ("prob", "logprob", "logit_diff")


@pytest.mark.parametrize("chunk", [1, 700, 999 * 5, 2**22])  # a token, parts that do not fit, all
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])  # LN, RMS, capped logits
def test_scores_equal_softmax_over_all_logits_whatever_the_chunk(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
):
    model = family(name).model
    resid = finals(model, 5)
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    torch.testing.assert_close(
        answer_scores(model, resid, ANSWER, FOIL), by_hand(model, resid), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])  # gemma2: capped logits
def test_a_part_of_the_vocabulary_bounds_log_probabilities(family: FamilyOf, name: str) -> None:
    model = family(name).model
    resid = finals(model, 20)
    rows, tokens = torch.arange(20), torch.arange(20) * 30
    bounds = token_bounds(model, resid, rows, tokens)
    logits = unembedded(model, model.ln_final(resid[None])[0]).double()
    part = logits[:, : model.cfg.d_vocab // metrics.BOUND_SHARE + 1]
    expected = (logits[rows, tokens] - part.logsumexp(-1)).clamp(max=0).float()
    torch.testing.assert_close(bounds, expected, atol=1e-4, rtol=0)
    logprobs, _ = token_scores(model, resid, rows, tokens)
    assert (bounds >= logprobs).all() and (bounds > logprobs + 0.1).any() and (bounds < 0).any()


def test_more_rows_than_are_normalised_at_once_are_scored_alike(toy: HookedTransformer):
    resid = finals(toy, 2500)
    scores = answer_scores(toy, resid, ANSWER, FOIL)
    assert scores.shape == (3, 2500)
    torch.testing.assert_close(scores, by_hand(toy, resid), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_last_logits_are_the_models_own(family: FamilyOf, name: str):
    model = family(name).model
    tokens = torch.randint(2, 500, (3, 9), generator=torch.Generator().manual_seed(0))
    resid = model(tokens, stop_at_layer=model.cfg.n_layers)[:, -1]
    torch.testing.assert_close(last_logits(model, resid), model(tokens)[:, -1], atol=1e-5, rtol=0)


def test_a_cap_bounds_the_logits(family: FamilyOf):
    model = family("gemma2").model
    resid = finals(model, 20)
    assert model.unembed(model.ln_final(resid[None])).abs().max() > 6  # the cap has work to do
    assert last_logits(model, resid).abs().max() < 6


def test_scores_of_great_logits_stay_finite(toy: HookedTransformer):
    resid = 1e4 * finals(toy, 4)
    assert answer_scores(toy, resid, ANSWER, FOIL).isfinite().all()


def test_scoring_leaves_the_residuals_as_they_were(toy: HookedTransformer):
    resid = finals(toy, 4)
    before = resid.clone()
    answer_scores(toy, resid, ANSWER, FOIL)
    assert torch.equal(resid, before)


def test_few_words_are_a_vocabulary_of_their_own(family: FamilyOf) -> None:
    """Losses, KL and slope among some tokens are those of a model that has no others."""
    model = family("gemma2").model
    rows = finals(model, 6)
    targets, shares = torch.tensor([7, 300, 41]), torch.tensor([0.5, 0.25, 0.25])
    words = likeliest(model, rows, targets, 20)
    best = unembedded(model, rows).argsort(dim=1, descending=True)[:, :20]
    assert set(words.ids.tolist()) == {*best.flatten().tolist(), *targets.tolist()}
    assert torch.equal(words.ids, words.ids.sort().values) and len(words.ids) < 124
    before = torch.randn(3, len(words.ids), generator=torch.Generator().manual_seed(1))
    stay, stay_shares = before.log_softmax(-1), torch.tensor([2.0, 0.0, 0.5])
    nll, kl, _, slope = losses_and_slope(
        model, rows, targets, shares, stay_shares, stay, among=words
    )
    with torch.enable_grad():
        read = rows.clone().requires_grad_(True)
        now = unembedded(model, read)[:, words.ids].log_softmax(-1)
        places = [words.ids.tolist().index(target) for target in targets.tolist()]
        own = -now[torch.arange(3), places]
        drifted = (now[3:].exp() * (now[3:] - stay)).sum(-1)
        ((shares * own).sum() + (stay_shares * drifted).sum()).backward()
    torch.testing.assert_close(nll, own.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kl, drifted.detach(), atol=1e-5, rtol=1e-5)
    assert read.grad is not None
    torch.testing.assert_close(slope, read.grad, atol=1e-5, rtol=1e-4)


def test_all_words_are_the_whole_vocabulary(toy: HookedTransformer) -> None:
    rows, targets = finals(toy, 2), torch.tensor([7, 300])
    shares = torch.ones(2)
    every = likeliest(toy, rows, targets, 10**6)
    one = losses_and_slope(toy, rows, targets, shares)
    other = losses_and_slope(toy, rows, targets, shares, among=every)
    torch.testing.assert_close(one[0], other[0])
    torch.testing.assert_close(one[3], other[3])
