"""MEMIT: what it promises of keys, residuals and layers; it leaves the model alone."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.edit import Edit, LowRank
from kedit.editing.frozen import Slot
from kedit.editing.keys import key_texts, keys, training_rows
from kedit.editing.moments import moment
from kedit.editing.values import Trained, Training, first_rows, train
from kedit.editing.write_sites import WriteSite
from kedit.editors.memit import MEMIT
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest
from kedit.models import toy as toy_module
from kedit.models.prompts import KeyPosition
from kedit.scoring.score import Scoring, score
from tests.conftest import FamilyOf, log_odds

pytestmark = pytest.mark.usefixtures("cached_moments")

CASES = toy_module.cases()
CASE = CASES[0]
CONTEXTS = ("", "Bruno Birch likes to speak. ", "What links them is the. ")
TRAINING = Training(steps=10, lr=0.1, weight_decay=0.05, clamp=4.0)
LEAST = 1e-9  # λ with which every goal is reached, up to rounding


def memit(text: str, layers: tuple[int, ...] = (0, 1), **settings: Any) -> MEMIT:
    settings = {"weight": 1.0, "training": TRAINING, "contexts": CONTEXTS, **settings}
    return MEMIT(layers, text=text, **settings)


def made(edit: Edit, layer: int) -> Tensor:
    delta = edit.deltas[WriteSite(layer).parameter]
    assert isinstance(delta, LowRank)
    return delta.left @ delta.right


def residual(model: HookedTransformer, layer: int, demand: Demand, where: KeyPosition) -> Tensor:
    """The residual stream after a layer at the key position, behind no context."""
    (tokens,) = key_texts(model, demand, [""], where)
    with torch.no_grad():
        resid = model(torch.tensor([tokens]), stop_at_layer=layer + 1)
    return resid[0, -1]


def trained(
    model: HookedTransformer, request: EditRequest, slots: list[Slot], where: KeyPosition
) -> tuple[Trained, list[int]]:
    """What is wanted behind no context, and the first row of each group."""
    rows = training_rows(model, request, ("",), where)
    return train(model, rows, slots, TRAINING), first_rows(rows)


def test_a_batch_of_one_is_its_closed_form_layer_by_layer(
    toy: HookedTransformer, text: str
) -> None:
    request, weight = CASE.entity, 300.0  # of the size of kᵀC⁻¹k
    (demand,) = request.demands
    slot = Slot(1, "resid")
    found = train(toy, training_rows(toy, request, CONTEXTS, "subject_last"), [slot], TRAINING)
    goal = found.written[slot][0] + found.deltas[slot][0]
    seconds = {layer: moment(toy, [WriteSite(layer)], text) for layer in (0, 1)}
    edit = memit(text, weight=weight)(toy, [request])
    for layer, n_left in ((0, 2), (1, 1)):
        below = Edit({name: edit.deltas[name] for name in list(edit.deltas)[:layer]}, edit.made)
        with below.applied(toy):
            bare, *others = keys(toy, [WriteSite(layer)], demand, CONTEXTS, "subject_last")[
                WriteSite(layer)
            ].double()
            share = (goal - residual(toy, 1, demand, "subject_last")).double() / n_left
        key = bare / 2 + torch.stack(others).mean(0) / 2
        system = weight * seconds[layer].matrix + key.outer(key)
        by_hand = torch.linalg.solve(system, key.outer(share)).float()
        # the keys' float32 times the condition of C
        assert (made(edit, layer) - by_hand).norm() < 1e-4 * by_hand.norm()
        brought = (key.float() @ by_hand).norm() / share.norm()
        assert 0.1 < brought < 0.9  # the weight matters


def test_two_requests_with_one_key_get_the_mean_of_what_each_would_get(
    toy: HookedTransformer, text: str
) -> None:
    told = (("{} was born in", "Delft"), ("{} likes to speak", "Danish"))  # alike up to the subject
    born, speaks = (
        EditRequest(
            dataclasses.replace(CASE.entity.fact, template=template, relation_words=()), target
        )
        for template, target in told
    )
    # next to nothing beside kᵀC⁻¹k: what is wanted is written
    edits = memit(text, (1,), weight=0.01, contexts=("",)).on(toy)
    after = []
    for requests in ([born], [speaks], [born, speaks], [born, born, speaks]):
        with edits(requests).applied(toy):
            after.append(residual(toy, 1, born.demands[0], "subject_last"))
    one, other, both, twice = after
    apart = (one - other).norm()
    assert apart > 0.1 * one.norm()
    assert (both - (one + other) / 2).norm() < 0.01 * apart
    assert (twice - (2 * one + other) / 3).norm() < 0.01 * apart


@pytest.mark.parametrize("name", ["toy", "gpt2"])
def test_with_next_to_no_weight_one_layer_reaches_its_goal(
    toy: HookedTransformer, text: str, family: FamilyOf, name: str
) -> None:
    model = toy if name == "toy" else family(name).model
    slot, request = Slot(1, "resid"), CASE.entity
    found, _ = trained(model, request, [slot], "subject_last")
    goal = found.written[slot][0] + found.deltas[slot][0]
    edit = memit(text, (1,), weight=LEAST, contexts=("",))(model, [request])
    before = residual(model, 1, request.demands[0], "subject_last")
    with edit.applied(model):
        after = residual(model, 1, request.demands[0], "subject_last")
    assert (before - goal).norm() > 0.01 * goal.norm()
    assert (after - goal).norm() < 1e-4 * goal.norm()


def test_at_the_last_token_both_demands_of_a_relation_edit_get_their_own(
    toy: HookedTransformer,
    text: str,
) -> None:
    request, slot = CASE.request("relation"), Slot(1, "resid")
    found, firsts = trained(toy, request, [slot], "last")
    goals = found.written[slot][firsts] + found.deltas[slot]
    assert len(goals) == 2 and (goals[0] - goals[1]).norm() > 0.1 * goals[0].norm()
    edit = memit(text, (1,), weight=LEAST, contexts=("",), where="last")(toy, [request])
    with edit.applied(toy):
        for demand, goal in zip(request.demands, goals, strict=True):
            after = residual(toy, 1, demand, "last")
            assert (after - goal).norm() < 1e-3 * goal.norm()
    assert made(edit, 1).shape == (256, 64) and torch.linalg.matrix_rank(made(edit, 1)) == 2
    one = memit(text, (1,), weight=LEAST, contexts=("",))(toy, [request])  # at the subject: one key
    assert torch.linalg.matrix_rank(made(one, 1)) == 1


@pytest.mark.parametrize("layers", [(2,), (1, 2)])
def test_behind_post_norms_every_layer_writes_the_raw_output_trained_for_it(
    family: FamilyOf, text: str, layers: tuple[int, ...]
) -> None:
    model, request = family("gemma3").model, CASE.entity
    slots = [Slot(layer, "mlp") for layer in layers]
    found, _ = trained(model, request, slots, "subject_last")
    edit = memit(text, layers, weight=LEAST, contexts=("",))(model, [request])
    for applied in (False, True):
        with edit.applied(model) if applied else torch.no_grad():
            for slot in slots:
                site, (demand,) = WriteSite(slot.layer), request.demands
                key = keys(model, [site], demand, [""], "subject_last")[site][0]
                goal = found.written[slot][0] + found.deltas[slot][0]
                missing = (key @ site.weight(model) + site.bias(model) - goal).norm()
                if applied:
                    assert missing < 1e-4 * goal.norm()
                else:
                    assert missing > 0.01 * goal.norm()


def test_one_by_one_is_one_batch_nested_in_the_other(toy: HookedTransformer, text: str) -> None:
    requests = [CASES[0].entity, CASES[17].entity]
    edits = memit(text, batch=1).on(toy)  # moments and contexts of the unedited model for both
    together = edits(requests)
    first = edits(requests[:1])
    with first.applied(toy):
        second = edits(requests[1:])
    for layer in (0, 1):
        torch.testing.assert_close(made(together, layer), made(first, layer) + made(second, layer))
    assert [part.requests for part in together.made.parts] == [
        first.made.requests,
        second.made.requests,
    ]
    at_once = memit(text)(toy, requests)
    assert (made(at_once, 1) - made(together, 1)).norm() > 0.01 * made(together, 1).norm()


def test_batches_hold_as_many_requests_as_told(toy: HookedTransformer, text: str) -> None:
    requests = [case.entity for case in CASES[:3]]
    edit = memit(text, (1,), batch=2, contexts=("",))(toy, requests)
    assert [len(part.requests) for part in edit.made.parts] == [2, 1]
    whole = memit(text, (1,), contexts=("",))(toy, requests)
    assert len(whole.made.requests) == 3 and not whole.made.parts


def test_the_larger_the_weight_the_less_other_texts_are_disturbed(
    toy: HookedTransformer, text: str
) -> None:
    second = moment(toy, [WriteSite(1)], text).matrix.float()
    disturbances = []
    for weight in (1.0, 300.0, 3000.0):  # kᵀC⁻¹k is some hundreds
        delta = made(memit(text, (1,), weight=weight)(toy, [CASE.entity]), 1)
        disturbances.append(float((delta * (second @ delta)).sum()))
    assert disturbances[0] > 1.5 * disturbances[1] > 1.5**2 * disturbances[2] > 0


@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_several_facts_at_once_are_all_said_more_than_before(
    toy: HookedTransformer, text: str, perspective: Any
) -> None:
    cases = [CASES[0], CASES[17], CASES[34]]
    edit = memit(text, weight=0.1, where="last", contexts=("",))(
        toy, [case.request(perspective) for case in cases]
    )
    before = score(toy, cases, Scoring(say=False))
    with edit.applied(toy):
        after = score(toy, cases, Scoring(say=False))
    lifts = [
        log_odds(probe.logprob) - log_odds(unedited.logprob)
        for old, new in zip(before, after, strict=True)
        for probe, unedited in zip(new.probes, old.probes, strict=True)
        if (probe.perspective, probe.group) == (perspective, "efficacy")
    ]
    assert len(lifts) == 3 and min(lifts) > 0.1 and sum(lifts) / 3 > 1


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "gptj"])
def test_the_model_is_left_as_it_was(family: FamilyOf, text: str, name: str) -> None:
    model = family(name).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    edit = memit(text, contexts=CONTEXTS[:2], batch=1)(model, [case.entity for case in CASES[:2]])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())
    assert all(count > 0 for count in edit.n_moved(model).values())


def test_the_model_is_left_as_it_was_when_a_later_layer_fails(
    toy: HookedTransformer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kedit.editors import memit as module

    before = {name: value.clone() for name, value in toy.state_dict().items()}
    insert, edited = module.ridge_insert, []

    def fail_at_the_second(*args: Any) -> LowRank:
        if edited:
            # the control: the first layer stands edited when it happens
            assert not torch.equal(WriteSite(0).weight(toy), before[WriteSite(0).parameter])
            raise RuntimeError("no memory")
        edited.append(True)
        return insert(*args)

    monkeypatch.setattr(module, "ridge_insert", fail_at_the_second)
    with pytest.raises(RuntimeError, match="no memory"):
        memit(text)(toy, [CASE.entity])
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


def test_a_layer_that_is_not_there_is_named(toy: HookedTransformer, text: str) -> None:
    with pytest.raises(InputError, match=r"has no blocks\.9\.mlp\.W_out: it has 4 layers"):
        memit(text, (1, 9))(toy, [CASE.entity])


def test_contexts_that_the_model_makes_up_are_kept_with_the_edit(
    toy: HookedTransformer, text: str
) -> None:
    short = dataclasses.replace(TRAINING, steps=2)
    edit = memit(text, (1,), contexts=(), training=short)(toy, [CASE.entity])
    kept = edit.made.settings["contexts"]
    assert len(kept) == 6 and kept[0] == "" and edit.made.settings["layers"] == (1,)
    again = memit(text, (1,), contexts=tuple(kept), training=short)(toy, [CASE.entity])
    assert torch.equal(made(edit, 1), made(again, 1))
