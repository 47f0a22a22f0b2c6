"""Training a value only above the edit, against the whole model under hooks, step by step."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing import value_losses, values
from kedit.editing.frozen import Row, Slot
from kedit.editing.keys import target_rows
from kedit.editing.values import Trained, Training, train, train_all
from kedit.editing.write_sites import WriteSite
from kedit.errors import InputError
from kedit.models import toy as toy_module
from tests.conftest import FAMILIES, FamilyOf

PLAIN = tuple(name for name in FAMILIES if name not in ("bloom", "gemma2", "olmo3"))
POST_NORM = ("gemma3",)
ROWS = (
    Row((0, 5, 9, 200, 201, 30), 2, targets=(40, 41)),
    Row((0, 7, 5, 9, 200, 201, 30), 3, targets=(40, 41)),
    Row((0, 7, 8, 11, 12, 60), 4, group=1, targets=(61,), weight=0.5),
    Row((0, 5, 9, 33, 34), 2),
)
SLOTS = (Slot(1, "mlp"), Slot(2, "attn"), Slot(2, "resid"))
TRAINING = Training(steps=4, lr=0.1, weight_decay=0.3, kl=0.5, clamp=0.8, stop=0.0)


def raw_hook(slot: Slot) -> str:
    """Where what is written can be changed; behind a post-norm it cannot."""
    return get_act_name(
        {"mlp": "mlp_out", "attn": "attn_out", "resid": "resid_post"}[slot.part], slot.layer
    )


def slow(
    model: HookedTransformer, rows: tuple[Row, ...], slots: tuple[Slot, ...], training: Training
) -> Trained:
    """The published loop: the whole model at every step, row by row."""
    written, keys = {}, {}
    for slot in slots:
        written[slot] = at_rows(model, rows, raw_hook(slot))
        if slot.part == "mlp":
            keys[slot] = at_rows(model, rows, WriteSite(slot.layer).key_hook)
    n_groups = 1 + max(row.group for row in rows)
    firsts = [next(i for i, row in enumerate(rows) if row.group == g) for g in range(n_groups)]
    norms = {slot: written[slot][firsts].norm(dim=-1) for slot in slots}
    deltas = {slot: torch.zeros(n_groups, model.cfg.d_model, requires_grad=True) for slot in slots}
    assert training.lr is not None
    optimiser = torch.optim.Adam(list(deltas.values()), lr=training.lr)
    losses, stay, nll, looked = [], {}, torch.zeros(()), {}
    lowest = min(slot.layer for slot in slots)
    n_wanted = sum(bool(row.targets) for row in rows)
    among = words(model, rows, training.words) if training.words else slice(None)
    wanted = {slot: [torch.zeros(())] * len(rows) for slot in slots}
    for step in range(training.steps):
        nll, kl, attention = torch.zeros(()), [], torch.zeros(())
        for number, row in enumerate(rows):

            def write(slot: Slot, row: Row = row, number: int = number):
                def hook(act: Tensor, hook: object) -> Tensor:
                    act = act.clone()
                    act[0, row.pos] += deltas[slot][row.group]
                    wanted[slot][number] = act[0, row.pos].detach().clone()
                    return act

                return hook

            patterns: list[Tensor] = []
            last = len(row.tokens) - len(row.targets)  # of the prompt

            def look(act: Tensor, hook: object, patterns=patterns, last=last) -> None:
                patterns.append(act[0, :, last, : last + 1])

            logits = model.run_with_hooks(
                torch.tensor([row.tokens]),
                fwd_hooks=[
                    *((raw_hook(slot), write(slot)) for slot in slots),
                    *(
                        (get_act_name("pattern", layer), look)
                        for layer in range(lowest + 1, model.cfg.n_layers)
                        if row.targets and training.attention_kl
                    ),
                ],
            )[0]
            for head, now in enumerate([head for pattern in patterns for head in pattern]):
                before = looked.setdefault((number, head), now.detach())
                if now[row.pos] > before[row.pos]:
                    seen = before > 0  # not those beyond a local window
                    divergence = (before[seen] * (before[seen] / now[seen]).log()).sum()
                    attention = attention + training.attention_kl * divergence / n_wanted
            left_out = torch.ones_like(logits, dtype=torch.bool)
            left_out[:, among] = False
            logprobs = logits.masked_fill(left_out, -1e9).log_softmax(-1)
            if row.targets:
                said = logprobs[-len(row.targets) :]
                chosen = said.gather(1, torch.tensor(row.targets)[:, None])
                nll = nll - row.weight * chosen.mean() / n_wanted
            else:
                stay.setdefault(number, logprobs[row.pos].detach())
                kl.append((logprobs[row.pos].exp() * (logprobs[row.pos] - stay[number])).sum())
        loss = nll + attention + (training.kl * sum(kl) / len(kl) if kl else 0)
        for slot in slots:
            size = (deltas[slot].square().sum(-1) + 1e-12).sqrt()
            loss = loss + training.weight_decay * (size / norms[slot] ** 2).sum()
        losses.append(float(loss.detach()))
        if losses[-1] < training.stop or step == training.steps - 1:
            break
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            for slot in slots:
                for group in range(n_groups):
                    size = deltas[slot][group].norm()
                    if size > training.clamp * norms[slot][group]:
                        deltas[slot][group] *= training.clamp * norms[slot][group] / size
    return Trained(
        {slot: delta.detach() for slot, delta in deltas.items()},
        written,
        keys,
        {slot: torch.stack(acts) for slot, acts in wanted.items()},
        tuple(losses),
        float((-nll.detach()).exp()),
    )


def at_rows(model: HookedTransformer, rows: tuple[Row, ...], name: str) -> Tensor:
    """An activation at each row's position, one forward per row."""
    acts = []
    for row in rows:
        _, cache = model.run_with_cache(torch.tensor([row.tokens]), names_filter=[name])
        acts.append(cache[name][0, row.pos])
    return torch.stack(acts)


def words(model: HookedTransformer, rows: tuple[Row, ...], n: int) -> list[int]:
    """The likeliest tokens wherever a row is read, and all targets."""
    found = set()
    for row in rows:
        found |= set(row.targets)
        logits = model(torch.tensor([row.tokens]))[0]
        read = logits[-len(row.targets) :] if row.targets else logits[row.pos][None]
        found |= set(read.topk(n).indices.flatten().tolist())
    return sorted(found)


def assert_same(fast: Trained, twin: Trained) -> None:
    assert fast.losses == pytest.approx(twin.losses, abs=2e-4)
    assert fast.likelihood == pytest.approx(twin.likelihood, abs=1e-4)
    assert fast.keys.keys() == twin.keys.keys()
    for slot, keys in twin.keys.items():
        torch.testing.assert_close(fast.keys[slot], keys, atol=1e-4, rtol=1e-4)
    for slot, delta in twin.deltas.items():
        torch.testing.assert_close(fast.written[slot], twin.written[slot], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(fast.wanted[slot], twin.wanted[slot], atol=2e-3, rtol=1e-2)
        torch.testing.assert_close(fast.deltas[slot], delta, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in POST_NORM])
def test_training_equals_the_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    fast, twin = train(model, ROWS, SLOTS, TRAINING), slow(model, ROWS, SLOTS, TRAINING)
    assert len(fast.losses) == 4 and fast.losses[-1] < fast.losses[0]
    assert_same(fast, twin)


@pytest.mark.parametrize("name", [name for name in PLAIN if name not in POST_NORM])
def test_attention_that_should_stay_equals_the_slow_twin(family: FamilyOf, name: str) -> None:
    model = family(name).model
    # larger deltas, so that attention moves
    moving = replace(TRAINING, attention_kl=3.0, lr=0.5, clamp=4.0)
    fast = train(model, ROWS, SLOTS, moving)
    assert_same(fast, slow(model, ROWS, SLOTS, moving))
    free = train(model, ROWS, SLOTS, replace(moving, attention_kl=0.0))  # the control
    assert max((free.deltas[slot] - fast.deltas[slot]).abs().max() for slot in SLOTS) > 1e-2


@pytest.mark.parametrize("n", [1, 12])
def test_among_few_words_it_equals_the_twin_that_has_no_others(family: FamilyOf, n: int) -> None:
    model = family("llama").model
    few = replace(TRAINING, words=n)
    fast = train(model, ROWS, SLOTS, few)
    assert_same(fast, slow(model, ROWS, SLOTS, few))
    assert fast.losses[0] < train(model, ROWS, SLOTS, TRAINING).losses[0] - 0.2  # the control


def test_among_all_words_it_is_the_plain_training(family: FamilyOf) -> None:
    model = family("llama").model
    every = train(model, ROWS, SLOTS, replace(TRAINING, words=10**6))
    assert_same(every, train(model, ROWS, SLOTS, TRAINING))


@pytest.mark.parametrize("name", POST_NORM)
def test_behind_a_post_norm_the_residual_equals_the_twin_and_the_raw_output_is_written(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    slots = (Slot(2, "resid"),)
    assert_same(train(model, ROWS, slots, TRAINING), slow(model, ROWS, slots, TRAINING))
    raw = train(model, ROWS, (Slot(1, "mlp"),), TRAINING)
    _, cache = model.run_with_cache(torch.tensor([ROWS[0].tokens]))
    site = WriteSite(1)
    written = cache[site.key_hook][0, ROWS[0].pos] @ site.weight(model) + site.bias(model)
    torch.testing.assert_close(raw.written[Slot(1, "mlp")][0], written, atol=1e-4, rtol=1e-4)
    assert raw.losses[-1] < raw.losses[0]


def test_the_model_is_left_as_it_was(toy: HookedTransformer) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    train(toy, ROWS, SLOTS, TRAINING)
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in toy.parameters())


def test_a_delta_stays_within_its_clamp_and_makes_the_toy_say_the_target(
    toy: HookedTransformer,
) -> None:
    request = toy_module.cases()[0].entity
    rows = target_rows(toy, request.demands[0], [""], "last", 0)
    slot = Slot(1, "mlp")
    for clamp, says in ((10.0, True), (0.01, False)):
        found = train(toy, rows, [slot], Training(steps=30, lr=0.1, clamp=clamp, weight_decay=0.01))
        norm = found.written[slot][0].norm()
        assert found.deltas[slot][0].norm() <= clamp * norm * 1.0001
        assert (found.likelihood > 0.5) is says


@pytest.mark.parametrize("name", ["bloom", "gemma2", "olmo3"])
def test_other_kinds_of_attention_are_refused(family: FamilyOf, name: str) -> None:
    with pytest.raises(InputError, match="supports plain softmax attention only"):
        train(family(name).model, ROWS, SLOTS, TRAINING)


def test_live_hooks_are_refused(toy: HookedTransformer) -> None:
    with (
        toy.hooks(fwd_hooks=[(get_act_name("z", 0), lambda act, hook: act)]),
        pytest.raises(InputError, match=r"live hooks \(blocks\.0\.attn\.hook_z\)"),
    ):
        train(toy, ROWS, SLOTS, TRAINING)


PROBLEMS = (
    ROWS,
    (Row((0, 9, 8, 7, 6, 30), 5, targets=(50,)),),  # nothing has to stay
    (*ROWS[2:3], Row((0, 4), 1), Row((0, 5, 9, 33, 34, 35, 36), 2), *ROWS[:2]),
)


@pytest.mark.parametrize(("n_words", "attention_kl"), [(0, 0.0), (12, 0.0), (0, 3.0)])
@pytest.mark.parametrize("name", ["gpt2", "gemma3", "llama"])
def test_several_problems_together_are_trained_as_each_alone(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch, name: str, n_words: int, attention_kl: float
) -> None:
    model, slots = family(name).model, SLOTS[:2] if name == "llama" else SLOTS[2:]
    steps = replace(TRAINING, steps=6, words=n_words, attention_kl=attention_kl)
    # A loss at which they end after different numbers of steps, and that none of them is near to
    losses = [train(model, rows, slots, steps).losses for rows in PROBLEMS]
    gap, stop = max(
        (high - low, (high + low) / 2)
        for low, high in pairwise(sorted(loss for each in losses for loss in each))
        if len({sum(loss > high for loss in each) for each in losses}) > 1
    )
    assert gap > 0.05
    stopping = replace(steps, stop=stop)
    alone = [train(model, rows, slots, stopping) for rows in PROBLEMS]
    assert len({len(found.losses) for found in alone}) > 1
    together: list[int] = []
    freeze = values.freeze
    monkeypatch.setattr(
        values, "freeze", lambda *given: (together.append(len(given[1])), freeze(*given))[1]
    )
    # all in one batch; with a product of logits for each; in batches of at most two
    n_layers = model.cfg.n_layers - min(slot.layer for slot in slots)
    for room, held in ((1000, value_losses.HELD), (1000, 1), (36, 1)):
        monkeypatch.setattr(values, "max_tokens", lambda *given, room=room: room * n_layers)
        monkeypatch.setattr(value_losses, "HELD", held)
        for fast, slow in zip(train_all(model, PROBLEMS, slots, stopping), alone, strict=True):
            assert len(fast.losses) == len(slow.losses)
            assert_same(fast, slow)
    assert together == [10, 10, 5, 5]


def test_no_problems_are_trained_to_nothing(toy: HookedTransformer) -> None:
    assert train_all(toy, [], SLOTS, TRAINING) == []
