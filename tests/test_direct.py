"""Direct effects: they add up, and each is what is lost when its part alone is taken away."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.components.layer_norm import LayerNorm
from transformer_lens.components.layer_norm_pre import LayerNormPre
from transformer_lens.components.rms_norm import RMSNorm
from transformer_lens.components.rms_norm_pre import RMSNormPre
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.runs import Run, States
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from probes.corrupt import Noise, add_noise
from probes.direct import DirectEffects, direct_effects
from probes.frozen import frozen_norm, norm_bias
from probes.patch import AnswerMetric
from tests.conftest import FAMILIES, QUESTION, FamilyOf, clean_run
from tests.twins import Hooks, write

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"
NORMS = {"LN": LayerNorm, "LNPre": LayerNormPre, "RMS": RMSNorm, "RMSPre": RMSNormPre}


def noised(model: HookedTransformer) -> Run:
    """Three rows that differ from the subject on."""
    return add_noise(model, encode(model, FACT), "subject", Noise(0.5), samples=3, seed=0).run


@torch.no_grad()
def uncapped(model: HookedTransformer, run: Run) -> Float[Tensor, "row vocab"]:
    """The model's own logits at the last token, as they leave W_U."""
    found: list[Tensor] = []
    last: Hooks = [(model.unembed.hook_out.name or "", lambda act, hook: found.append(act))]
    model.run_with_hooks(
        run.tokens,
        fwd_hooks=[*run.hooks, *last],
        attention_mask=torch.ones_like(run.tokens),
    )
    return found[0][:, -1]


def frozen(model: HookedTransformer, run: Run) -> Hooks:
    """Hold what every half writes, and the scale of every norm on the way to the logits."""
    halves = [("attn_out", None), ("mlp_out", None), ("scale", "ln1"), ("scale", "ln1_post")]
    layers = range(model.cfg.n_layers)
    names = [get_act_name(name, layer, norm) for name, norm in halves for layer in layers]
    with model.hooks(fwd_hooks=list(run.hooks)):
        _, cache = model.run_with_cache(
            run.tokens,
            names_filter=[*names, get_act_name("scale")],
            attention_mask=torch.ones_like(run.tokens),
        )
    return [(name, write((slice(None),), act)) for name, act in cache.items()]


def alone(
    model: HookedTransformer, run: Run, held: Hooks, freed: str, hooks: Hooks
) -> Float[Tensor, "row vocab"]:
    """The logits under `hooks`, which change what is written at `freed`, all else being held."""
    others = [hold for hold in held if hold[0] != freed]
    return uncapped(model, replace(run, hooks=(*run.hooks, *others, *hooks)))


def silenced(*where: slice | int) -> Callable:
    def hook(act: Tensor, hook: object) -> Tensor:
        act = act.clone()
        act[where] = 0
        return act

    return hook


def asked(logits: Float[Tensor, "row vocab"]) -> float:
    return float((logits[:, QUESTION.answer] - logits[:, QUESTION.foil]).mean())


def parts(effects: DirectEffects) -> Iterator[float]:
    yield from (*effects.heads.flatten().tolist(), *effects.mlps.tolist(), effects.rest)


def assert_adds_up(model: HookedTransformer, run: Run) -> DirectEffects:
    effects = direct_effects(model, run.states(model), QUESTION)
    assert effects.heads.shape == (model.cfg.n_layers, model.cfg.n_heads)
    assert sum(parts(effects)) == pytest.approx(effects.total, abs=5e-5)
    assert effects.total == pytest.approx(asked(uncapped(model, run)), abs=5e-5)
    # the controls: nothing is so small that it could be left out unnoticed
    assert min(effects.heads.abs().max().item(), abs(effects.rest)) > 1e-3
    return effects


@pytest.mark.parametrize("name", FAMILIES)
def test_heads_mlps_and_the_rest_add_up_to_the_logit_difference(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    run = noised(model)
    effects = assert_adds_up(model, run)
    assert effects.mlps.abs().min() > 1e-3
    logits = model.run_with_hooks(run.tokens, fwd_hooks=list(run.hooks))
    is_capped = model.cfg.output_logits_soft_cap > 0
    assert (effects.total == pytest.approx(asked(logits[:, -1]), abs=5e-5)) != is_capped


@pytest.mark.parametrize("architecture", [None, "Olmo2ForCausalLM"])
@pytest.mark.parametrize("norm", [*NORMS, None])
def test_they_add_up_without_mlps_whatever_the_norm_before_or_behind_a_half(
    norm: str | None, architecture: str | None
) -> None:
    # all has a bias here; of the families none has both post-norms and b_O
    cfg = HookedTransformerConfig(
        n_layers=2, d_model=16, n_heads=2, d_head=8, n_ctx=8, d_vocab=400, attn_only=True,
        normalization_type=norm, original_architecture=architecture, init_weights=False,
        device="cpu",
    )  # fmt: skip
    model, draw = HookedTransformer(cfg), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.data = 0.5 * torch.randn(weight.shape, generator=draw)
    effects = assert_adds_up(model, Run(torch.tensor([[0, 5, 6, 7], [0, 8, 9, 5]])))
    assert not effects.mlps.any()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_part_has_the_effect_that_is_lost_without_it_when_all_else_is_held(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    run = noised(model)
    effects, whole = direct_effects(model, run.states(model), QUESTION), asked(uncapped(model, run))
    held = frozen(model, run)
    for layer in (1, 2):
        attn, mlp = get_act_name("attn_out", layer), get_act_name("mlp_out", layer)
        for head in range(model.cfg.n_heads):
            hooks: Hooks = [(get_act_name("z", layer), silenced(slice(None), -1, head))]
            lost = whole - asked(alone(model, run, held, attn, hooks))
            assert float(effects.heads[layer, head]) == pytest.approx(lost, abs=5e-5)
        hooks = [(mlp, silenced(slice(None), -1))]
        lost = whole - asked(alone(model, run, held, mlp, hooks))
        assert float(effects.mlps[layer]) == pytest.approx(lost, abs=5e-5)
    assert asked(alone(model, run, held, attn, [])) == pytest.approx(whole, abs=5e-5)
    assert effects.heads.std() > 1e-2  # which head is which can be told


def only(states: States, row: int) -> States:
    kept = vars(states).items()
    return States(**{kind: tuple(act[row : row + 1] for act in acts) for kind, acts in kept})


def test_effects_of_several_rows_are_means(toy: HookedTransformer) -> None:
    states = noised(toy).states(toy)
    rows = [direct_effects(toy, only(states, row), QUESTION) for row in range(3)]
    together = direct_effects(toy, states, QUESTION)
    for kind in ("heads", "mlps"):
        each = torch.stack([getattr(row, kind) for row in rows])
        torch.testing.assert_close(getattr(together, kind), each.mean(0), atol=1e-5, rtol=0)
    assert together.total == pytest.approx(sum(row.total for row in rows) / 3, abs=1e-5)
    assert rows[0].total != pytest.approx(rows[1].total, abs=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_the_states_and_the_weights_are_only_read(family: FamilyOf, name: str) -> None:
    model = family(name).model
    states = clean_run(model, FACT).states(model)
    read = [*(act for acts in vars(states).values() for act in acts), *model.parameters()]
    before = [act.clone() for act in read]
    effects = direct_effects(model, states, QUESTION)
    assert all(map(torch.equal, read, before))
    other = direct_effects(model, states, AnswerMetric(QUESTION.foil, QUESTION.answer))
    assert other.total == pytest.approx(-effects.total, abs=1e-5) and abs(effects.total) > 1e-2


@pytest.mark.parametrize("kind", [*NORMS, "none"])
def test_a_norm_is_linear_once_its_scale_is_frozen(toy: HookedTransformer, kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    norm = NORMS[kind](toy.cfg) if kind in NORMS else nn.Identity()
    for weight in norm.parameters():
        weight.data = torch.randn(weight.shape, generator=draw)
    pieces = 2 + torch.randn(5, 3, toy.cfg.d_model, generator=draw)
    whole = pieces.sum(0)
    added = frozen_norm(norm, whole, pieces).sum(0) + norm_bias(norm, whole)
    torch.testing.assert_close(added, norm(whole[None])[0], atol=1e-5, rtol=0)
    thawed = sum(norm(piece[None])[0] for piece in pieces)
    assert kind == "none" or (thawed - added).abs().max() > 0.5  # each in its own scale


def test_parts_that_do_not_add_up_are_refused(toy: HookedTransformer) -> None:
    run = clean_run(toy, FACT)
    towards = toy.W_U[:, QUESTION.answer] - toy.W_U[:, QUESTION.foil]

    def pushed(act: Tensor, hook: object) -> Tensor:  # by what no head has written
        return act + act.norm() * towards / towards.norm()

    foreign = replace(run, hooks=((get_act_name("attn_out", 2), pushed),))
    with pytest.raises(InputError, match=r"sum to .*, but the logit difference is .* change no"):
        direct_effects(toy, foreign.states(toy), QUESTION)
    silent = replace(run, hooks=((get_act_name("z", 2), silenced(slice(None), -1)),))
    effects = direct_effects(toy, silent.states(toy), QUESTION)
    assert not effects.heads[2].any() and effects.heads[1].any()


@pytest.mark.parametrize("question", [AnswerMetric(-1, 300), AnswerMetric(300, 10_000)])
def test_a_token_that_is_not_there_is_refused(
    toy: HookedTransformer, question: AnswerMetric
) -> None:
    with pytest.raises(InputError, match=rf"{question.answer}, foil {question.foil}: token ids"):
        direct_effects(toy, clean_run(toy, FACT).states(toy), question)
