"""Path patching: against plain hooks on whole forwards, by hand, and where it must be a sweep."""

import copy
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.errors import InputError
from kedit.forward.metrics import answer_scores
from kedit.forward.runs import Run
from kedit.heads import Head
from kedit.models import toy as toy_module
from kedit.models.prompts import encode
from kedit.models.sites import head_written, is_parallel
from probes.corrupt import Noise, add_noise, embedding_std
from probes.patch import Patch, sweep
from probes.path_patching import Mlps, PathEffects, Receiver, path_patch
from tests.conftest import FAMILIES, QUESTION, FamilyOf, assert_same_scores, clean_run
from tests.twins import Hooks, write

FACT = toy_module.facts()[0]  # "The birthplace of Ada Alder is"
SENDER = Head(1, 2)
LOGITS = Receiver("logits")
RECEIVERS = (
    LOGITS,
    Receiver("q", 3, 1),
    Receiver("mlp", 3),
    Receiver("k", 2, 1),
    Receiver("v", 2, 0),
    Receiver("mlp", 2),
    Receiver("q", 2, 3),
    Receiver("v", 3, 1),
)
OWN_MLP = Receiver("mlp", 1)  # of the sender's layer
PLAIN, PARALLEL, GROUPED, POST_NORMED = "gpt2", "gptj", "llama", "gemma3"


def noised(model: HookedTransformer) -> Run:
    noise = Noise(3 * embedding_std(model, [FACT.subject]))
    return add_noise(model, encode(model, FACT), "subject", noise, samples=3, seed=0).run


def patched(
    model: HookedTransformer,
    receivers: Sequence[Receiver],
    positions: Sequence[int] | None = None,
    mlps: Mlps = "held",
    sender: Head = SENDER,
) -> PathEffects:
    clean, corrupted = clean_run(model, FACT), noised(model)
    return path_patch(model, clean, corrupted, sender, receivers, QUESTION, positions, mlps)


@torch.no_grad()
def twin(
    model: HookedTransformer,
    run: Run,
    clean: ActivationCache,
    corrupted: ActivationCache,
    receiver: Receiver,
    positions: Sequence[int],
    mlps: Mlps,
) -> Tensor:
    """Two whole forwards from the tokens on, one hook for every head and MLP."""
    every = slice(None)
    hooks: Hooks = list(run.hooks)
    for layer in range(model.cfg.n_layers):
        z, out = get_act_name("z", layer), get_act_name("mlp_out", layer)
        hooks += [(z, write((every, every, h), corrupted[z])) for h in range(model.cfg.n_heads)]
        if mlps == "held" and (receiver.kind, receiver.layer) != ("mlp", layer):
            hooks.append((out, write((every,), corrupted[out])))
    z = get_act_name("z", SENDER.layer)
    hooks += [(z, write((every, pos, SENDER.head), clean[z])) for pos in positions]
    if receiver.kind == "logits":
        return scored(model.run_with_hooks(run.tokens, fwd_hooks=hooks))
    place = get_act_name("mlp_out" if receiver.kind == "mlp" else receiver.kind, receiver.layer)
    part = (every,) if receiver.kind == "mlp" else (every, every, receiver.head)
    seen: list[Tensor] = []
    hooks.append((place, lambda act, hook: seen.append(act)))
    model.run_with_hooks(run.tokens, fwd_hooks=hooks)
    again: Hooks = [*run.hooks, (place, write(part, seen[0]))]
    return scored(model.run_with_hooks(run.tokens, fwd_hooks=again))


def scored(logits: Tensor) -> Tensor:
    last = logits[:, -1].float()
    logprob = last.log_softmax(-1)[:, QUESTION.answer]
    difference = last[:, QUESTION.answer] - last[:, QUESTION.foil]
    return torch.stack([logprob.exp().mean(), logprob.mean(), difference.mean()])


@pytest.mark.parametrize("name", [PLAIN, PARALLEL, GROUPED, POST_NORMED, "olmo3", "neo", "bloom"])
def test_every_path_equals_its_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    n_pos, run = len(encode(model, FACT).tokens), noised(model)
    _, clean = model.run_with_cache(clean_run(model, FACT).tokens)
    with model.hooks(fwd_hooks=list(run.hooks)):
        _, corrupted = model.run_with_cache(run.tokens)
    receivers = RECEIVERS if is_parallel(model.blocks[1]) else (*RECEIVERS, OWN_MLP)
    some = [n_pos - 1, encode(model, FACT).subject[0]]
    cases: tuple[tuple[Mlps, list[int] | None], ...] = (("held", None), ("recomputed", some))
    for mlps, positions in cases:
        found = patched(model, receivers, positions, mlps)
        where = positions or list(range(n_pos))
        slow = [twin(model, run, clean, corrupted, one, where, mlps) for one in receivers]
        assert_same_scores(found.restored, torch.stack(slow, dim=1))
        effects = found.indirect_effect("logprob").abs()
        assert effects.max() > 0.01 and (effects > 2e-4).sum() >= len(receivers) - 2
    everywhere = patched(model, receivers).restored[1]
    held = patched(model, receivers, some).restored[1]
    recomputed = patched(model, receivers, some, "recomputed").restored[1]
    assert (held - recomputed).abs().max() > 1e-3  # it matters what MLPs do
    assert (held - everywhere).abs().max() > 1e-3  # and where the sender is restored


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_of_the_last_layer_has_no_other_way_than_the_direct_one(
    family: FamilyOf, name: str
) -> None:
    # what restoring it brings in all, its own layer's MLP included
    model = family(name).model
    last, layer = len(encode(model, FACT).tokens) - 1, model.cfg.n_layers - 1
    clean, corrupted = clean_run(model, FACT).states(model), noised(model).states(model)
    grid = sweep(model, clean, corrupted, Patch("z"), QUESTION, [last])
    brings = grid.indirect_effect("logprob")[layer, 0].abs()
    head = int(brings.argmax())
    assert brings[head] > 1e-3
    paths = patched(model, [LOGITS], [last], "recomputed", Head(layer, head))
    assert_same_scores(paths.restored[:, 0], grid.restored[:, layer, 0, head])
    assert_same_scores(paths.clean, grid.clean)
    assert_same_scores(paths.corrupted, grid.corrupted)
    assert paths.total_effect() == pytest.approx(grid.total_effect(), abs=1e-5)


@pytest.mark.parametrize("name", [PLAIN, PARALLEL, POST_NORMED, "olmo3"])
def test_the_direct_path_adds_what_the_head_writes_otherwise(family: FamilyOf, name: str) -> None:
    model = family(name).model
    clean, corrupted = clean_run(model, FACT).states(model), noised(model).states(model)
    layer, head = SENDER
    z, clean_z = corrupted.z[layer][:, -1], clean.z[layer][:, -1]
    written = head_written(model.blocks[layer], z, clean_z)[head]
    final = corrupted.last + written - corrupted.attn_out[layer][:, -1]
    by_hand = answer_scores(model, final, QUESTION.answer, QUESTION.foil).mean(1)
    found = patched(model, [LOGITS])
    assert_same_scores(found.restored[:, 0], by_hand)
    assert found.indirect_effect("logprob").abs() > 1e-3


@pytest.mark.parametrize("mlps", ["held", "recomputed"])
def test_a_clean_output_that_is_the_corrupted_one_changes_nothing(
    family: FamilyOf, mlps: Mlps
) -> None:
    model = family(GROUPED).model
    clean = clean_run(model, FACT)
    unharmed = Run(clean.tokens.expand(3, -1))
    found = path_patch(model, clean, unharmed, SENDER, RECEIVERS, QUESTION, None, mlps)
    assert_same_scores(found.restored, found.corrupted[:, None].expand_as(found.restored))
    control = patched(model, RECEIVERS, mlps=mlps)
    assert control.indirect_effect("logprob").abs().max() > 0.01


def test_without_other_heads_nothing_moves_between_positions(family: FamilyOf) -> None:
    model = family(POST_NORMED).model
    last = len(encode(model, FACT).tokens) - 1
    receivers = [LOGITS, Receiver("q", 3, 1), Receiver("mlp", 3), Receiver("v", 3, 1)]
    for mlps in ("held", "recomputed"):
        before = patched(model, receivers, range(last), mlps).indirect_effect("logprob").abs()
        there = patched(model, receivers, [last], mlps).indirect_effect("logprob").abs()
        # behind the last layer's attention only the last position is asked
        assert before[:3].max() < 1e-5 < 1e-4 < before[3]
        assert there[:3].min() > 1e-4


@pytest.mark.parametrize("kind", ["k", "v"])
def test_keys_and_values_feed_the_heads_of_their_group(family: FamilyOf, kind: str) -> None:
    model = copy.deepcopy(family(GROUPED).model)
    layer, group = 2, 2  # four heads, two of them with keys and values of their own
    receivers = [Receiver("k" if kind == "k" else "v", layer, head) for head in (0, 1)]
    whole = patched(model, receivers).indirect_effect("logprob").abs()
    assert whole.min() > 1e-4
    deaf = [head for head in range(4) if head // group == 1]
    model.blocks[layer].attn.W_O.data[deaf] = 0
    cut = patched(model, receivers).indirect_effect("logprob").abs()
    assert cut[1] < 1e-5 and cut[0] > 1e-4


def test_receivers_come_by_themselves_in_any_number_and_order(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(PLAIN).model
    receivers = (*RECEIVERS, OWN_MLP, LOGITS)
    together = patched(model, receivers)
    assert together.receivers == receivers and together.sender == SENDER
    alone = [patched(model, [receiver]).restored[:, 0] for receiver in receivers]
    assert_same_scores(together.restored, torch.stack(alone, dim=1))
    monkeypatch.setattr(
        "probes.path_patching.ROWS_PER_BATCH", 7
    )  # two receivers of three samples each
    backwards = patched(model, receivers[::-1])
    assert_same_scores(backwards.restored.flip(1), together.restored)
    assert len({round(float(value), 5) for value in together.restored[1]}) == len(receivers) - 1
    assert patched(model, []).restored.shape == (3, 0)


def test_the_model_is_left_as_it_was(toy: HookedTransformer) -> None:
    tokens = encode(toy, FACT).tokens[None]
    logits = toy(tokens)
    patched(toy, RECEIVERS)
    # some head brings the subject to the last position; recomputed MLPs leave its effect whole
    heads = [Head(layer, head) for layer in range(4) for head in range(4)]
    found = [patched(toy, [LOGITS], mlps="recomputed", sender=head) for head in heads]
    assert torch.equal(toy(tokens), logits)
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())
    assert max(float(one.indirect_effect("logprob").abs().max()) for one in found) > 0.01


@pytest.mark.parametrize(
    ("name", "receiver", "message"),
    [
        (PLAIN, Receiver("q", 1, 0), "L1H0.q does not read what L1H2 writes: .* layer 2 or"),
        (PLAIN, Receiver("v", 0, 0), "L0H0.v does not read"),
        (PLAIN, Receiver("mlp", 0), "L0.mlp does not read .* in layer 1 or"),
        (PARALLEL, OWN_MLP, "L1.mlp does not read .* in layer 2 or"),
        (PLAIN, Receiver("k", 4, 0), "L4H0.k does not read .* of 4 layers"),
        (PLAIN, Receiver("q", 2, 4), "no receiver L2H4.q: .* 4 heads with a q"),
        (GROUPED, Receiver("k", 2, 2), "no receiver L2H2.k: .* 2 heads with a k"),
    ],
)
def test_a_receiver_that_cannot_see_the_sender_is_refused(
    family: FamilyOf, name: str, receiver: Receiver, message: str
) -> None:
    model = family(name).model
    with pytest.raises(InputError, match=message):
        patched(model, [LOGITS, receiver])


@pytest.mark.parametrize(
    ("kind", "layer", "head"),
    [("q", 2, -1), ("v", -1, 2), ("mlp", 2, 0), ("mlp", -1, -1), ("logits", 3, -1), ("k", 2, -2),
     ("logits", -1, 0), ("mlp", 2, -2), ("z", 2, 2)],
)  # fmt: skip
def test_a_receiver_that_is_nowhere_is_refused(kind: str, layer: int, head: int) -> None:
    # the check by itself: where types are checked at run time, they refuse some of these before it
    with pytest.raises(InputError, match=rf"receiver '?{kind}"):
        Receiver.__post_init__(SimpleNamespace(kind=kind, layer=layer, head=head))  # pyright: ignore


def test_runs_that_do_not_fit_are_refused(toy: HookedTransformer) -> None:
    clean, corrupted = clean_run(toy, FACT), noised(toy)
    n_pos = clean.tokens.shape[1]

    def patch(clean: Run, corrupted: Run, sender: Head = SENDER, pos: int = 0) -> PathEffects:
        return path_patch(toy, clean, corrupted, sender, [LOGITS], QUESTION, [pos])

    for tokens in (clean.tokens[:, 1:], clean.tokens.expand(3, -1)):
        with pytest.raises(InputError, match=rf"must have one row of {n_pos} tokens"):
            patch(Run(tokens), corrupted)
    for pos in (-1, n_pos):
        with pytest.raises(InputError, match=f"the runs have positions 0 to {n_pos - 1}"):
            patch(clean, corrupted, pos=pos)
    for absent in (Head(4, 0), Head(0, 4), Head(-1, 0)):
        with pytest.raises(InputError, match=f"no head {absent}: the model has 4 layers of 4"):
            patch(clean, corrupted, absent)
    place = get_act_name("resid_pre", 2)
    late = Run(corrupted.tokens, ((place, lambda act, hook: act + 1),))
    with pytest.raises(InputError, match=f"the corrupted run has hooks at {place}"):
        patch(clean, late)
    with (
        toy.hooks(fwd_hooks=[(place, lambda act, hook: act)]),
        pytest.raises(InputError, match="live hooks"),
    ):
        patch(clean, corrupted)
