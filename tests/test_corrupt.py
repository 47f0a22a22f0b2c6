"""Noise: its rules, and that of ROME's published code against its protocol written anew."""

from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer
from transformers import GPT2Config, GPT2Model, PreTrainedModel, PreTrainedTokenizerFast

from kedit.errors import InputError
from kedit.facts import Fact
from kedit.models import toy as toy_module
from kedit.models.hugging_face import hooked
from kedit.models.load import prepare, quiet
from kedit.models.prompts import encode, plain_ids
from probes.corrupt import (
    add_noise,
    embedding_std,
    embeddings,
    noise_kind,
    noise_rule,
)
from probes.patch import AnswerMetric, Patch
from tests.conftest import GPT_2, FamilyOf, random_module, swept

FACTS = toy_module.facts()
FACT = FACTS[0]  # "The birthplace of Ada Alder is"


@pytest.mark.parametrize("site", ["resid_post", "mlp_out", "attn_out"])
def test_upstream_noise_gives_the_scores_of_romes_published_protocol(
    bosless: PreTrainedTokenizerFast, site: Literal["resid_post", "mlp_out", "attn_out"]
):
    hf = random_module(GPT2Config(**{**GPT_2, "n_layer": 12}))
    with quiet():
        model = prepare(hooked(hf, torch.float32), bosless)
    prompt = encode(model, FACT)
    noise = noise_rule(model, "upstream", FACTS, "subject")
    corruption = add_noise(model, prompt, "subject", noise, samples=10, seed=123)
    low, answer, table = romes_table(hf, bosless, FACT, site)
    assert table.max() - low > 0.01  # something is restored
    window = 1 if site == "resid_post" else 10
    question = AnswerMetric(answer, foil=(answer + 1) % 500)
    grid = swept(model, FACT, corruption, Patch(site, window), question=question)
    torch.testing.assert_close(grid.corrupted[0], low, atol=1e-5, rtol=0)
    torch.testing.assert_close(grid.restored[0], table, atol=1e-5, rtol=0)


@torch.no_grad()
def romes_table(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, fact: Fact, site: str
) -> tuple[Tensor, int, Float[Tensor, "layer pos"]]:
    """Score of the corrupted run, answer, and score of every restored cell, as Meng et al.'s code.

    Row 0 runs clean; rows 1 to 10 get noise on the subject's token embeddings: 3 deviations of all
    subjects' embedding entries, drawn with RandomState(1) anew for each run. A cell copies what row
    0's modules put out into the other rows. Scored: their mean probability of row 0's first choice.
    """
    gpt2 = hf.transformer
    assert isinstance(gpt2, GPT2Model)
    ids, begin, end, scale = romes_inputs(gpt2, tokenizer, fact)

    def run(modules: list[nn.Module], pos: int) -> Tensor:
        drawn = np.random.RandomState(1).randn(10, end - begin, hf.config.n_embd)

        def corrupt(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            out = out.clone()
            out[1:, begin:end] += scale * torch.from_numpy(drawn).float()
            return out

        def restore(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            hidden[1:, pos] = hidden[0, pos]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        hooks = [gpt2.wte.register_forward_hook(corrupt)]
        hooks += [module.register_forward_hook(restore) for module in modules]
        try:
            return hf(ids).logits[:, -1].softmax(-1)
        finally:
            for hook in hooks:
                hook.remove()

    uncured = run([], 0)
    answer = int(uncured[0].argmax())
    blocks = list(gpt2.h)
    kinds = {
        "resid_post": blocks,
        "mlp_out": [block.mlp for block in blocks],
        "attn_out": [block.attn for block in blocks],
    }
    table = torch.zeros(len(blocks), ids.shape[1])
    for layer in range(len(blocks)):
        reach = [layer] if site == "resid_post" else range(layer - 5, layer + 5)
        modules = [kinds[site][near] for near in reach if 0 <= near < len(blocks)]
        for pos in range(ids.shape[1]):
            table[layer, pos] = run(modules, pos)[1:, answer].mean()
    return uncured[1:, answer].mean(), answer, table


@pytest.mark.parametrize("severed", ["mlp_out", "attn_out"])
def test_severed_scores_are_romes_if_both_its_passes_draw_the_same_noise(
    bosless: PreTrainedTokenizerFast, severed: Literal["mlp_out", "attn_out"]
):
    hf = random_module(GPT2Config(**GPT_2))
    with quiet():
        model = prepare(hooked(hf, torch.float32), bosless)
    prompt = encode(model, FACT)
    noise = noise_rule(model, "upstream", FACTS, "subject")
    corruption = add_noise(model, prompt, "subject", noise, samples=10, seed=123)
    answer = int(model(prompt.tokens[None])[0, -1].argmax())
    question = AnswerMetric(answer, foil=(answer + 1) % 500)
    grid = swept(model, FACT, corruption, Patch("resid_post", severed=severed), question=question)
    ours = grid.restored[0, :, corruption.positions[-1]]
    reseeded, published = (
        romes_severed_curve(hf, bosless, FACT, answer, severed, reseed) for reseed in (True, False)
    )
    torch.testing.assert_close(ours, reseeded, atol=1e-5, rtol=0)
    assert (ours - published).abs().max() > 1e-3


@torch.no_grad()
def romes_severed_curve(
    hf: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    fact: Fact,
    answer: int,
    severed: str,
    reseed: bool,
) -> Float[Tensor, " layer"]:
    """Scores with the subject's last residual restored and its modules held, as Meng et al.'s code.

    A first pass keeps what every MLP, or every attention, puts out under noise; a second one, under
    noise that the same RandomState(1) draws next, restores a residual and puts that in place.

    Args:
        reseed: draw the first pass's noise in the second one too, which their code does not.
    """
    gpt2 = hf.transformer
    assert isinstance(gpt2, GPT2Model)
    ids, begin, end, scale = romes_inputs(gpt2, tokenizer, fact)
    blocks: list[Any] = list(gpt2.h)
    modules = [block.mlp if severed == "mlp_out" else block.attn for block in blocks]

    def passes(layer: int) -> Tensor:
        source = np.random.RandomState(1)
        kept: dict[nn.Module, Tensor] = {}

        def corrupt(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            out = out.clone()
            drawn = torch.from_numpy(source.randn(10, end - begin, hf.config.n_embd)).float()
            out[1:, begin:end] += scale * drawn
            return out

        def hold(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            if module in kept:
                hidden[1:, end - 1] = kept[module][1:, end - 1]
            kept[module] = hidden
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        def restore(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
            hidden = (out[0] if isinstance(out, tuple) else out).clone()
            hidden[1:, end - 1] = hidden[0, end - 1]
            return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

        hooks = [gpt2.wte.register_forward_hook(corrupt)]
        hooks += [module.register_forward_hook(hold) for module in modules]
        try:
            hf(ids)
            if reseed:
                source.seed(1)
            hooks.append(blocks[layer].register_forward_hook(restore))
            return hf(ids).logits[1:, -1].softmax(-1)[:, answer].mean()
        finally:
            for hook in hooks:
                hook.remove()

    return torch.stack([passes(layer) for layer in range(len(modules))])


def romes_inputs(
    gpt2: GPT2Model, tokenizer: PreTrainedTokenizerFast, fact: Fact
) -> tuple[Tensor, int, int, float]:
    """Eleven rows of the prompt, where its subject begins and ends, and the noise's deviation."""
    ids = torch.tensor([tokenizer(fact.prompt).input_ids] * 11)
    subject = tokenizer(f" {fact.subject}").input_ids
    begin = next(i for i in range(len(ids[0])) if ids[0, i:].tolist()[: len(subject)] == subject)
    words = [gpt2.wte.weight[tokenizer(each.subject).input_ids] for each in FACTS]
    return ids, begin, begin + len(subject), 3 * torch.cat(words).std().item()


@pytest.mark.parametrize(("rule", "times"), [("s3", 3), ("s0.5", 0.5), ("s", 1), ("upstream", 3)])
def test_spherical_noise_is_measured_on_the_corrupted_words(
    toy: HookedTransformer, rule: str, times: float
):
    ids = [token for fact in FACTS for token in plain_ids(toy, fact.subject)]
    expected = times * toy.embed.W_E[ids].std().item()
    assert noise_rule(toy, rule, FACTS, "subject").scale == pytest.approx(expected)
    assert noise_rule(toy, rule, FACTS, "relation").scale != pytest.approx(expected, rel=1e-4)
    drawn = noise_rule(toy, rule, FACTS, "subject").draw((500, 2, 64), seed=0)
    assert drawn.std().item() == pytest.approx(expected, rel=0.02)
    assert drawn.mean().item() == pytest.approx(0, abs=0.02 * expected)


@pytest.mark.parametrize(("rule", "kurtosis"), [("m", 3), ("t9", 4.2)])
def test_multivariate_noise_has_the_moments_of_the_prompts_embeddings(
    toy: HookedTransformer, rule: str, kurtosis: float
):
    ids = [token for fact in FACTS for token in plain_ids(toy, fact.prompt)]
    rows = toy.embed.W_E[ids].double()
    drawn = noise_rule(toy, rule, FACTS, "subject").draw((40_000, 1, 64), seed=0)[:, 0].double()
    wanted, got = torch.cov(rows.T), torch.cov(drawn.T)
    assert (got - wanted).norm() < 0.06 * wanted.norm()
    assert (drawn.mean(0) - rows.mean(0)).norm() < 0.03 * wanted.trace().sqrt()
    # 3 for the normal; 3 (d - 2) / (d - 4) for Student's t: its tails are heavier
    along = (drawn - drawn.mean(0)) @ torch.linalg.eigh(wanted).eigenvectors[:, -1]
    assert (along**4).mean() / (along**2).mean() ** 2 == pytest.approx(kurtosis, rel=0.15)


def test_uniform_and_plain_noise_have_the_size_that_their_rule_says(toy: HookedTransformer):
    uniform = noise_rule(toy, "u0.1", FACTS, "subject").draw((1000, 1, 64), seed=0)
    assert 0.0999 < uniform.max() <= 0.1 and -0.1 <= uniform.min() < -0.0999
    assert uniform.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.01)
    plain = noise_rule(toy, "0.03", FACTS, "subject").draw((1000, 1, 64), seed=0)
    assert plain.std().item() == pytest.approx(0.03, rel=0.01)


def test_an_equals_sign_puts_the_noise_in_the_embeddings_place(toy: HookedTransformer):
    prompt = encode(toy, FACT)
    for rule, base in (("0.5", 1.0), ("0.5=", 0.0)):
        noise = noise_rule(toy, rule, FACTS, "subject")
        corruption = add_noise(toy, prompt, "subject", noise, samples=4, seed=7)
        with toy.hooks(fwd_hooks=list(corruption.run.hooks)):
            _, cache = toy.run_with_cache(corruption.run.tokens, names_filter="hook_embed")
        own = toy.embed.W_E[prompt.tokens].expand(4, -1, -1).clone()
        where = list(corruption.positions)
        own[:, where] = base * own[:, where] + noise.draw((4, len(where), 64), seed=7)
        torch.testing.assert_close(cache["hook_embed"], own)
    assert noise_rule(toy, "s3=", FACTS, "subject") == replace(
        noise_rule(toy, "s3", FACTS, "subject"), substitute=True
    )


@pytest.mark.parametrize("kind", ["s3", "m", "t5", "u0.1", "0.03"])
@pytest.mark.parametrize("ending", ["", "="])
def test_every_rule_can_be_drawn_as_upstream_does(toy: HookedTransformer, kind: str, ending: str):
    plain, upstream = (
        noise_rule(toy, f"{before}{kind}{ending}", FACTS, "subject") for before in ("", "upstream:")
    )
    assert upstream.upstream and not plain.upstream
    assert upstream.substitute == plain.substitute == bool(ending)
    assert torch.equal(upstream.draw((3, 2, 64), seed=7), plain.draw((3, 2, 64), seed=1))
    assert not torch.equal(upstream.draw((3, 2, 64), seed=7), plain.draw((3, 2, 64), seed=7))


def test_upstream_alone_is_three_deviations(toy: HookedTransformer):
    for ending in ("", "="):
        long, short = (
            noise_rule(toy, f"{rule}{ending}", FACTS, "subject")
            for rule in ("upstream:s3", "upstream")
        )
        assert long == short and short.upstream


@pytest.mark.parametrize("rule", ["s3", "m", "t5", "u0.1", "0.03", "upstream"])
def test_the_same_seed_draws_the_same_noise(toy: HookedTransformer, rule: str):
    noise = noise_rule(toy, rule, FACTS, "subject")
    first, again, other = (noise.draw((3, 2, 64), seed) for seed in (0, 0, 1))
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (rule == "upstream")  # which is drawn alike for all


@pytest.mark.parametrize(
    "rule",
    [
        "", "=", "x3", "sfoo", "s3 sigma", "u", "ufoo", "m3", "t", "tfoo", "t2", "t1.5", "nan",
        "upstream:", "upstream:x3", "upstream:upstream", "upstreams3", "upstream:t2=",
    ],
)  # fmt: skip
def test_a_bad_rule_is_refused_by_name(toy: HookedTransformer, rule: str):
    with pytest.raises(InputError, match=f"noise '{rule}'"):
        noise_rule(toy, rule, FACTS, "subject")


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        *((rule, "a finite number above 2") for rule in ("tnan", "tinf", "t-3", "t1e999")),
        *(
            (f"{kind}{number}{end}", r"above 0 and at most 1e\+12")
            for kind in ("", "s", "u")
            for number in ("nan", "inf", "-1", "0", "-0.0", "1e300", "1e30", "1e999")
            for end in ("", "=")
        ),
    ],
)
def test_noise_of_no_size_is_refused_before_there_is_a_model(rule: str, wanted: str):
    with pytest.raises(InputError, match=f"noise '{rule}': .*{wanted}"):
        noise_kind(rule)


def test_noise_that_is_too_large_for_these_embeddings_is_refused(toy: HookedTransformer):
    """Or too small: a number of deviations says nothing before these are measured."""
    model = deepcopy(toy)
    for factor in (0, 1e13):
        model.embed.W_E.data.fill_(0.0)
        model.embed.W_E.data[:, ::2] = factor
        with pytest.raises(InputError, match="noise 's3' has the size .*: must be above 0"):
            noise_rule(model, "s3", FACTS, "subject")
    model.embed.W_E.data[:, ::2] = 1.0
    assert noise_rule(model, "s3", FACTS, "subject").scale == pytest.approx(1.5, rel=0.01)


def test_noise_without_facts_is_refused(toy: HookedTransformer):
    with pytest.raises(InputError, match="no facts: the size of the noise"):
        noise_rule(toy, "s3", [], "subject")


def test_noise_is_measured_on_embeddings_as_the_model_scales_them(family: FamilyOf):
    hf, model = family("gemma")
    ids = list(plain_ids(model, FACT.subject))
    raw = hf.get_parameter("model.embed_tokens.weight")[ids]
    torch.testing.assert_close(embeddings(model, ids), raw * 32**0.5)  # Gemma: times sqrt(d_model)
    assert embedding_std(model, [FACT.subject]) == pytest.approx(raw.std().item() * 32**0.5)
