"""Scaling neurons at the last token: against a slow twin, with controls, and averages by hand."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.data import builtin
from kedit.editing.neurons import Neuron
from kedit.editing.write_sites import Half, WriteSite, read_keys
from kedit.models import toy as toy_module
from kedit.models.load import load
from kedit.models.prompts import encode
from probes.known import answers_right
from probes.neurons import search
from probes.scaling import (
    AMPLIFIED,
    LOUDEST,
    SUPPRESSED,
    Effect,
    Scaling,
    averaged,
    effects,
    loudest_like,
    random_like,
    scaled,
)
from tests.conftest import FamilyOf
from tests.twins import Hooks

FACT, WORDED = toy_module.facts()[0], toy_module.facts()[:17:16]  # two wordings of a fact
NOTHING: frozenset[Neuron] = frozenset()


def neurons(half: Half, layer: int, indices: range) -> frozenset[Neuron]:
    return frozenset(Neuron(WriteSite(layer, half), index) for index in indices)


SOME = neurons("mlp", 0, range(5)) | neurons("attn", 1, range(10, 14)) | neurons("mlp", 3, range(2))


def ask(model: HookedTransformer, *scalings: Scaling) -> Tensor:
    prompt = encode(model, FACT)
    return scaled(model, prompt.tokens, prompt.answer_ids[0], scalings)


def twin(model: HookedTransformer, scaling: Scaling) -> list[float]:
    """One forward, one hook a neuron, all logits."""
    prompt = encode(model, FACT)

    def times(index: int) -> Callable:
        def hook(act: Tensor, hook: object) -> Tensor:
            flat = act[0, -1].flatten().clone()
            flat[index] *= scaling.factor
            changed = act.clone()
            changed[0, -1] = flat.view_as(act[0, -1])
            return changed

        return hook

    hooks: Hooks = [(site.key_hook, times(index)) for site, index in scaling.neurons]
    logits = model.run_with_hooks(prompt.tokens[None], fwd_hooks=hooks)[0, -1].float()
    logprob = logits.log_softmax(-1)[prompt.answer_ids[0]]
    return [float(logprob.exp()), float(logprob)]


def test_no_neuron_scaled_changes_nothing(toy: HookedTransformer) -> None:
    whole = frozenset[Neuron]().union(
        *(neurons("mlp", layer, range(toy.cfg.d_mlp or 0)) for layer in range(toy.cfg.n_layers))
    )
    nothing, same, changed = ask(
        toy, Scaling(NOTHING, SUPPRESSED), Scaling(whole, 1.0), Scaling(whole, SUPPRESSED)
    )
    plain = torch.tensor(twin(toy, Scaling(NOTHING, 1.0)))
    torch.testing.assert_close(nothing, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=0)
    assert (plain[1] - changed[1]).abs() > 0.1  # the control, in nats: neurons matter


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma3", "bloom"])
def test_scaling_equals_its_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    scalings = [
        Scaling(part, factor)
        for part in (NOTHING, SOME, neurons("attn", 2, range(9)), neurons("mlp", 3, range(40)))
        for factor in (SUPPRESSED, AMPLIFIED)
    ]
    by_hand = torch.tensor([twin(model, scaling) for scaling in scalings])
    torch.testing.assert_close(ask(model, *scalings), by_hand, atol=5e-5, rtol=0)
    assert (by_hand[:, 1] - by_hand[0, 1]).abs().max() > 0.01  # it matters which


def test_more_scalings_than_a_batch_holds_are_the_same(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalings = [Scaling(SOME, factor / 4) for factor in range(7)]
    together = ask(toy, *scalings)
    monkeypatch.setattr("probes.scaling.ROWS_PER_BATCH", 3)
    torch.testing.assert_close(ask(toy, *scalings), together, atol=1e-5, rtol=0)
    assert len({round(float(value), 6) for value in together[:, 1]}) == 7


def test_doubling_adds_what_zeroing_takes(toy: HookedTransformer) -> None:
    # behind the last layer's MLP there is only the norm: its neurons act on the residual alone
    last = neurons("mlp", toy.cfg.n_layers - 1, range(20))
    site, prompt = WriteSite(toy.cfg.n_layers - 1), encode(toy, FACT)
    key = read_keys(toy, prompt.tokens[None], [site])[site][0, -1]
    clean = toy(prompt.tokens[None], stop_at_layer=toy.cfg.n_layers)[0, -1]
    written = key[:20] @ site.weight(toy)[:20]
    for (_, logprob), resid in zip(
        ask(toy, Scaling(last, AMPLIFIED), Scaling(last, SUPPRESSED)),
        (clean + written, clean - written),
        strict=True,
    ):
        logits = toy.unembed(toy.ln_final(resid[None, None]))[0, 0]
        wanted = logits.log_softmax(-1)[prompt.answer_ids[0]]
        torch.testing.assert_close(logprob, wanted, atol=1e-5, rtol=0)


def sites(found: frozenset[Neuron]) -> Counter[WriteSite]:
    return Counter(one.site for one in found)


@pytest.mark.parametrize("control", ["random", "loudest"])
def test_a_control_has_as_many_others_at_the_same_sites(
    toy: HookedTransformer, control: str
) -> None:
    def like(own: frozenset[Neuron]) -> frozenset[Neuron]:
        if control == "loudest":
            return loudest_like(toy, encode(toy, FACT).tokens, own)
        return random_like(toy, own, torch.Generator().manual_seed(0))

    others = like(SOME)
    assert sites(others) == sites(SOME) and not others & SOME
    assert like(SOME) == others
    most = neurons("attn", 2, range(60))  # of 64
    assert like(most) == neurons("attn", 2, range(60, 64))
    assert like(NOTHING) == NOTHING


def test_random_neurons_are_drawn_anew(toy: HookedTransformer) -> None:
    draw = torch.Generator().manual_seed(0)
    assert random_like(toy, SOME, draw) != random_like(toy, SOME, draw)


def test_the_loudest_write_most_at_the_last_token(toy: HookedTransformer) -> None:
    site, tokens = WriteSite(1, "attn"), encode(toy, FACT).tokens
    key = read_keys(toy, tokens[None], [site])[site][0, -1]
    written = [
        float((value * row).norm()) for value, row in zip(key, site.weight(toy), strict=True)
    ]
    ranked = sorted(range(len(written)), key=lambda index: -written[index])
    own = frozenset(Neuron(site, index) for index in ranked[:2])
    chosen = loudest_like(toy, tokens, own)
    assert chosen == frozenset(Neuron(site, index) for index in ranked[2:4])


def test_effects_are_means_over_wordings_and_sets_less_what_is_clean(
    toy: HookedTransformer,
) -> None:
    mlp, attn = neurons("mlp", 0, range(60)), neurons("attn", 0, range(20))
    # asked for another object: the probability of the right one is near 1 and hardly moves
    worded = [replace(fact, object="Delft") for fact in WORDED if fact.object != "Delft"]
    assert len(worded) == 2
    found = effects(toy, worded, {"own": [mlp | attn], "others": [mlp, attn, NOTHING]}, mlp)
    assert [one[:4] for one in found[:2]] == [
        ("own", "both", SUPPRESSED, 80), ("own", "both", AMPLIFIED, 80),
    ]  # fmt: skip
    names = {(one.neurons, one.half) for one in found}
    assert names == {
        *((name, half) for name in ("own", "others") for half in ("both", "mlp", "attn")),
        (LOUDEST, "both"), (LOUDEST, "mlp"),
    }  # fmt: skip
    (one,) = (one for one in found if one[:3] == ("others", "both", SUPPRESSED))
    assert one.n_neurons == 40  # of 60 and 20; an empty set has no effect that could be averaged
    changes, clean = [], []
    for fact in worded:
        prompt = encode(toy, fact)
        asked = [Scaling(NOTHING, 1.0), Scaling(mlp, SUPPRESSED), Scaling(attn, SUPPRESSED)]
        start, *scores = scaled(toy, prompt.tokens, prompt.answer_ids[0], asked)
        changes += [score - start for score in scores]
        clean.append(start[0])
    mean = torch.stack(changes).mean(0)
    torch.testing.assert_close(torch.tensor([one.prob, one.logprob]), mean, atol=1e-5, rtol=0)
    assert one.clean == pytest.approx(float(torch.stack(clean).mean()), abs=1e-5)
    assert max(float(change[1].abs()) for change in changes) > 1e-2  # they do something


def test_averages_by_hand() -> None:
    effect = Effect("own", "both", SUPPRESSED, 10, -0.2, -1.0, 0.5)
    amplified = effect._replace(factor=AMPLIFIED, prob=0.1)
    relations = [
        [[effect, amplified], [effect._replace(prob=-0.4, n_neurons=20, clean=1.0)]],
        [[effect._replace(logprob=-4.0)]],
        [[]],
    ]
    one, other = averaged(relations)
    assert (one.neurons, one.half, one.factor) == ("own", "both", SUPPRESSED)
    assert (one.n_facts, other.n_facts) == (3, 1)
    assert one.n_neurons == pytest.approx(40 / 3)
    assert float(one.prob.mean) == pytest.approx(-0.8 / 3)
    assert float(one.logprob.mean) == pytest.approx(-2)
    assert float(one.clean.mean) == pytest.approx(2 / 3)
    assert float(one.relative.mean) == pytest.approx(-0.8 / 2)
    # the second relation's mean and the first's are what draws of relations can give
    assert float(one.prob.low) == pytest.approx(-0.3) and float(one.prob.high) == -0.2
    assert other.factor == AMPLIFIED and float(other.prob.mean) == pytest.approx(0.1)


@pytest.mark.real
def test_on_gemma_attributed_neurons_matter_in_another_wording() -> None:
    model, draw = load("gemma-3-270m"), torch.Generator().manual_seed(0)
    one, *others = (
        fact
        for fact in builtin.load()
        if (fact.relation.id, fact.subject) == ("P36", "Italy") and answers_right(model, fact)[0]
    )
    own = search(model, [one]).neurons
    sets = {"own": [own], "random": [random_like(model, own, draw)]}
    changed = {found[:3]: found.prob for found in effects(model, others[:2], sets)}
    assert changed["own", "both", SUPPRESSED] < -0.1
    assert abs(changed["random", "both", SUPPRESSED]) < 0.05
