"""ROME: what it promises of keys and values, from both sides; it leaves the model alone."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing.contexts import memit_contexts, rome_contexts
from kedit.editing.edit import Edit
from kedit.editing.frozen import Slot
from kedit.editing.keys import groups, keys, training_rows
from kedit.editing.moments import moment
from kedit.editing.values import Training, train
from kedit.editing.write_sites import WriteSite
from kedit.editors.rome import ROME
from kedit.errors import SpanError
from kedit.facts import EditRequest
from kedit.models import toy as toy_module
from kedit.models.prompts import KeyPosition, answer_ids, decoded, located, plain_ids
from kedit.scoring.score import Scoring, score
from tests.conftest import FamilyOf, log_odds

CASE = toy_module.cases()[0]
SITE, SLOT = WriteSite(1), Slot(1, "mlp")
CONTEXTS = ("", "Bruno Birch likes to speak. ")
ROME_1 = ROME(
    layer=1,
    training=Training(lr=0.1, weight_decay=0.05),
    contexts=CONTEXTS,
    n_tokens=2560,
)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache of moments for this file, beside the toy's own."""
    from kedit.editing import moments

    place = tmp_path_factory.getbasetemp() / "moments"
    monkeypatch.setattr(moments, "cache_dir", lambda: Path(place))


def written(model: HookedTransformer, key: Tensor) -> Tensor:
    return key @ SITE.weight(model) + SITE.bias(model)


def wanted_value(
    model: HookedTransformer, request: EditRequest, where: KeyPosition, demand: int
) -> Tensor:
    """v* as `train` finds it for the rows that ROME asks for."""
    numbers = groups(model, request, where)
    rows = training_rows(model, request, CONTEXTS, where)
    trained = train(model, rows, [SLOT], ROME_1.training)
    first = next(n for n, row in enumerate(rows) if row.group == numbers[demand])
    return trained.written[SLOT][first] + trained.deltas[SLOT][numbers[demand]]


@pytest.mark.parametrize("where", ["subject_last", "object_last", "pair_last", "last"])
@pytest.mark.parametrize("perspective", ["entity", "relation"])
def test_the_edited_weight_maps_every_key_to_its_value(
    toy: HookedTransformer, perspective: str, where: KeyPosition
) -> None:
    request = CASE.request(perspective)  # pyright: ignore[reportArgumentType]
    rome = dataclasses.replace(ROME_1, where=where)
    if perspective == "entity" and where == "object_last":
        with pytest.raises(SpanError, match="spells out no object"):
            rome(toy, [request])
        return
    edit = rome(toy, [request])
    for number in range(len(request.demands)):
        demand = request.demands[number]
        key = keys(toy, [SITE], demand, CONTEXTS, where)[SITE].mean(0)
        value = wanted_value(toy, request, where, number)
        before = (written(toy, key) - value).norm()
        with edit.applied(toy):
            assert (written(toy, key) - value).norm() < 1e-4 * before.clamp(min=1)


def test_at_the_subject_both_demands_have_one_key_and_elsewhere_each_its_own(
    toy: HookedTransformer,
) -> None:
    request = CASE.request("relation")
    assert groups(toy, request, "subject_last") == (0, 0)
    assert groups(toy, request, "object_last") == (0, 1)
    assert groups(toy, request, "pair_last") == (0, 1)
    assert groups(toy, request, "last") == (0, 1)
    assert groups(toy, CASE.entity, "last") == (0,)


def test_the_legacy_key_scales_by_the_bare_prompt(toy: HookedTransformer) -> None:
    request = CASE.entity
    edits = [
        dataclasses.replace(ROME_1, key=key)(toy, [request])  # pyright: ignore
        for key in ("mean", "legacy")
    ]
    deltas = []
    for edit in edits:
        before = SITE.weight(toy).clone()
        with edit.applied(toy):
            deltas.append(SITE.weight(toy) - before)
    second = moment(toy, [SITE], n_tokens=2560)
    mean = keys(toy, [SITE], request.demands[0], CONTEXTS, "subject_last")[SITE].mean(0)
    bare = keys(toy, [SITE], request.demands[0], [""], "subject_last")[SITE][0]
    u = second.solve(mean[:, None])[:, 0].float()
    value = wanted_value(toy, request, "subject_last", 0)
    by_hand = u.outer(value - written(toy, bare)) / (bare @ u)
    torch.testing.assert_close(deltas[1], by_hand, atol=1e-4, rtol=1e-3)
    assert (deltas[0] - deltas[1]).norm() > 0.01 * deltas[1].norm()


def test_upstreams_relation_edit_asks_for_none_without_a_blank_five_times_at_most(
    toy: HookedTransformer,
) -> None:
    request = CASE.request("relation")
    contexts = tuple(f"{n}. " for n in range(8))
    rows = training_rows(toy, request, contexts, "subject_last", upstream_removals=5)
    none = plain_ids(toy, "None")
    removing = [row for row in rows if row.targets == none]
    prompt = request.fact.prompt
    assert len(removing) == 5 and none != answer_ids(toy, prompt, "None")
    name = answer_ids(toy, prompt, request.target)
    assert {row.weight for row in removing} == {len(none) / len(name)}
    right = training_rows(toy, request, contexts, "subject_last")
    assert len(right) == 8 + 8 + 1 and not any(row.targets == none for row in right)


def test_it_makes_the_target_likelier(toy: HookedTransformer) -> None:
    bare = dataclasses.replace(ROME_1, contexts=("",), where="last")
    (before,) = score(toy, [CASE], Scoring(say=False))
    for perspective in ("entity", "relation"):
        request = CASE.request(perspective)
        with bare(toy, [request]).applied(toy):
            (after,) = score(toy, [CASE], Scoring(say=False))
        changed = [
            log_odds(new.logprob) - log_odds(old.logprob)
            for old, new in zip(before.probes, after.probes, strict=True)
            if (old.perspective, old.group) == (perspective, "efficacy")
        ]
        assert changed and min(changed) > 1


def test_requests_are_edited_one_on_the_other_and_the_model_is_left_as_it_was(
    toy: HookedTransformer, text: str
) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    requests = [case.entity for case in toy_module.cases()[:2]]
    rome = dataclasses.replace(ROME_1, text=text)
    edit = rome(toy, requests)
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())
    assert not any(weight.requires_grad for weight in toy.parameters())
    assert len(edit.made.requests) == 2 and edit.made.editor == "rome"
    first = rome(toy, requests[:1])
    with first.applied(toy):
        second = rome(toy, requests[1:])
        with second.applied(toy):
            nested = SITE.weight(toy).clone()
    with edit.applied(toy):
        torch.testing.assert_close(SITE.weight(toy), nested, atol=1e-5, rtol=1e-4)


def test_an_edit_remembers_its_settings(toy: HookedTransformer, tmp_path: Path) -> None:
    edit = ROME_1(toy, [CASE.entity])
    again = Edit.load(edit.save(tmp_path / "rome.safetensors"))
    assert again.made.settings["layer"] == 1
    assert tuple(again.made.settings["contexts"]) == CONTEXTS
    assert again.made.requests[0]["target"] == CASE.entity.target


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_contexts_are_drawn_by_seed_and_hold_no_braces(family: FamilyOf, name: str) -> None:
    model = family(name).model
    drawn = rome_contexts(model, ((3, 2), (5, 2)), seed=1)
    assert drawn == rome_contexts(model, ((3, 2), (5, 2)), seed=1)
    assert drawn != rome_contexts(model, ((3, 2), (5, 2)), seed=2)
    assert drawn[0] == "" and len(drawn) == 5
    assert all(text.endswith(". ") and "{" not in text for text in drawn[1:])
    assert len(memit_contexts(model)) == 6


def test_positions_are_found_behind_any_context(toy: HookedTransformer) -> None:
    request = CASE.request("relation")
    words: dict[KeyPosition, str] = {
        "subject_last": "Alder",
        "object_last": request.mentioned,
        "pair_last": request.mentioned,
        "last": "is",
    }
    for before in CONTEXTS:
        for where, word in words.items():
            tokens, pos = located(toy, request.fact, where, request.mentioned, before)
            assert decoded(toy, tokens[pos]).strip() == word


def test_a_pair_is_read_at_whichever_of_both_stands_later(toy: HookedTransformer) -> None:
    fact = CASE.request("relation").fact
    for template, word in (
        ("Between {} and Corum", "Corum"),
        ("Corum, says {}, is", "Alder"),
        ("Corum, {} and Corum are", "Corum"),
        ("One of {} is", "Alder"),  # an entity prompt, which spells out no object
    ):
        one = dataclasses.replace(fact, template=template, relation_words=())
        mentioned = "Corum" if "Corum" in template else ""
        tokens, pos = located(toy, one, "pair_last", mentioned)
        assert decoded(toy, tokens[pos]).strip() == word
