"""Joint and Separate: what they promise of keys and targets, in any kind of block."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit.editing import forgetting as forgetting_module
from kedit.editing import layered as layered_module
from kedit.editing.closed_form import Solve
from kedit.editing.edit import Edit, LowRank, combined
from kedit.editing.forgetting import forget_then_add
from kedit.editing.keys import keys, last_keys
from kedit.editing.moments import moment
from kedit.editing.neighbours import neighbours
from kedit.editing.targets import Goal, goals
from kedit.editing.values import Training
from kedit.editing.wordings import questions
from kedit.editing.write_sites import Half, WriteSite
from kedit.editors import joint as joint_module
from kedit.editors.joint import Joint
from kedit.editors.rome import ROME
from kedit.editors.separate import Separate
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models import toy as toy_module
from kedit.models.prompts import KeyPosition, located, prompt_ids
from kedit.models.sites import has_post_norms
from kedit.scoring.score import Scoring, score
from tests.conftest import FamilyOf, log_odds

pytestmark = pytest.mark.usefixtures("cached_moments")

CASES = toy_module.cases()
RELATION = CASES[0].request("relation")
CONTEXTS = ("", "Bruno Birch likes to speak. ")
TRAINING = Training(steps=6, lr=0.1, weight_decay=0.05, clamp=1.0)
LEAST = 1e-9  # λ with which every target is reached, up to rounding
BOTH: tuple[Half, ...] = ("attn", "mlp")


def joint(text: str, layers: tuple[int, ...] = (1, 2), **settings: Any) -> Joint:
    settings = {"weight": LEAST, "training": TRAINING, "contexts": CONTEXTS, **settings}
    return Joint(layers, text=text, **settings)


def separate(text: str, layers: tuple[int, ...] = (1, 2), **settings: Any) -> Separate:
    settings = {"weight": LEAST, "training": TRAINING, "contexts": CONTEXTS, **settings}
    return Separate(layers, text=text, **settings)


def dense(edit: Edit, site: WriteSite) -> Tensor:
    delta = edit.deltas[site.parameter]
    assert isinstance(delta, LowRank)
    return delta.left @ delta.right


def wanted(
    model: HookedTransformer, told: Joint | Separate, request: EditRequest = RELATION
) -> tuple[list[WriteSite], list[Goal]]:
    """What shall be written where, and behind which texts."""
    trained = (isinstance(told, Separate) and told.trained) or told.halves
    sites = sorted(WriteSite(layer, half) for layer in told.layers for half in trained)
    return sites, goals(model, [request], CONTEXTS, told.where, sites, told.training)


@torch.no_grad()
def raws(model: HookedTransformer, text: Sequence[int], sites: Sequence[WriteSite]) -> list[Tensor]:
    """What the modules themselves give at the last token, before any post-norm."""
    found = {}

    def keep(site: WriteSite):
        def hook(module: object, args: object, output: Tensor) -> None:
            found[site] = output[0, -1].clone()

        return hook

    with contextlib.ExitStack() as hooked:
        for site in sites:
            block = model.blocks[site.layer]
            module = block.attn if site.half == "attn" else block.mlp
            hooked.callback(module.register_forward_hook(keep(site)).remove)  # pyright: ignore
        model(torch.tensor([text]))
    return [found[site] for site in sites]


def missing(
    model: HookedTransformer, edit: Edit, told: Joint | Separate, request: EditRequest = RELATION
) -> tuple[float, float]:
    """How far the written sites are from their targets, before and after, at the worst text."""
    _, goals = wanted(model, told, request)
    sites = sorted(WriteSite(layer, half) for layer in told.layers for half in told.halves)
    adds_up = isinstance(told, Joint) and not has_post_norms(model)
    worst = []
    for applied in (False, True):
        found = [0.0]
        for goal in goals:
            with edit.applied(model) if applied else contextlib.nullcontext():
                lacking = [
                    goal.of(site) - raw
                    for site, raw in zip(sites, raws(model, goal.text, sites), strict=True)
                ]
            if adds_up and len(told.halves) == 2:
                lacking = [
                    attn + mlp for attn, mlp in zip(lacking[::2], lacking[1::2], strict=True)
                ]
            found += [
                float(one.norm() / goal.of(site).norm())
                for one, site in zip(lacking, sites, strict=False)
            ]
        worst.append(max(found))
    return worst[0], worst[1]


ARMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "joint": (joint, {}),
    "W_out": (joint, {"halves": ("mlp",)}),
    "W_O": (joint, {"halves": ("attn",)}),
    "separate": (separate, {"halves": BOTH}),
    "PMET": (separate, {"trained": BOTH}),
    "exact": (separate, {"halves": BOTH, "insert": "exact", "weight": 1.0}),
}


@pytest.mark.parametrize(
    ("name", "arm"),
    [
        *((name, arm) for name in ("gptj", "gemma3") for arm in ARMS),
        *((name, "joint") for name in ("toy", "gpt2", "llama")),
    ],
)
def test_every_key_is_mapped_to_its_target(
    toy: HookedTransformer, family: FamilyOf, text: str, name: str, arm: str
) -> None:
    model = toy if name == "toy" else family(name).model
    made, settings = ARMS[arm]
    told = made(text, **settings)
    edit = told(model, [RELATION])
    halves = told.halves
    assert set(edit.deltas) == {
        WriteSite(layer, half).parameter for layer in (1, 2) for half in halves
    }
    before, after = missing(model, edit, told)
    assert before > 0.05 and after < 2e-3


def test_without_a_second_solve_the_moved_keys_miss_the_target(
    toy: HookedTransformer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = joint(text, (1,))
    _, settled = missing(toy, told(toy, [RELATION]), told)
    monkeypatch.setattr(joint_module, "is_parallel", lambda block: True)
    before, once = missing(toy, told(toy, [RELATION]), told)
    assert settled < 0.01 * min(before, once)


@pytest.mark.parametrize("name", ["toy", "gemma3"])
def test_w_out_writes_for_moved_keys_alone(
    toy: HookedTransformer, family: FamilyOf, text: str, name: str
) -> None:
    """Nothing is left of what it was to write for keys that it no longer meets."""
    model = toy if name == "toy" else family(name).model
    told = joint(text, (1,), weight=1.0)
    edit = told(model, [RELATION])
    attn, mlp = (WriteSite(1, half) for half in BOTH)
    texts = [goal.text for goal in wanted(model, told)[1]]
    before = last_keys(model, [mlp], texts)[mlp]
    with Edit({attn.parameter: edit.deltas[attn.parameter]}, edit.made).applied(model):
        moved = last_keys(model, [mlp], texts)[mlp]
    assert (moved - before).norm() > 0.1 * before.norm()
    # every direction that the delta reads is C⁻¹ of a moved key
    second = moment(model, [attn, mlp], text).of(mlp)
    delta = edit.deltas[mlp.parameter]
    assert isinstance(delta, LowRank)
    directions, left = second.solve(moved.double().T), delta.left.double()
    lost = left - directions @ torch.linalg.lstsq(directions, left).solution
    assert lost.norm() < 1e-3 * left.norm()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_only_the_rows_of_chosen_heads_change(family: FamilyOf, text: str, name: str) -> None:
    model = family(name).model
    heads = ((1, 3), (1, 0))
    told = joint(text, heads=heads)
    edit = told(model, [RELATION])
    site = WriteSite(1, "attn")
    assert set(edit.deltas) == {
        WriteSite(1).parameter, WriteSite(2).parameter, site.parameter
    }  # fmt: skip
    by_head = dense(edit, site).view(4, 8, 32)
    assert torch.equal(by_head[[1, 2]], torch.zeros(2, 8, 32))
    assert (by_head[[0, 3]].flatten(1).norm(dim=1) > 0).all()
    alone = joint(text, (1,), heads=heads, halves=("attn",))
    before, after = missing(model, alone(model, [RELATION]), alone)
    assert before > 0.05 and after < 2e-3


def test_a_choice_of_all_heads_is_none(toy: HookedTransformer, text: str) -> None:
    edits = [
        joint(text, (1,), heads=heads)(toy, [RELATION])
        for heads in ((), tuple((1, head) for head in range(4)))
    ]
    for half in BOTH:
        one, other = (dense(edit, WriteSite(1, half)) for edit in edits)
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_one_mlp_with_bare_prompts_is_rome(toy: HookedTransformer, text: str) -> None:
    told = separate(text, (1,), insert="exact", weight=1.0)
    bare = dataclasses.replace(told, contexts=("",))
    rome = ROME(1, TRAINING, "last", contexts=("",), text=text)
    for request in (RELATION, CASES[0].entity):
        one, other = (dense(editor(toy, [request]), WriteSite(1)) for editor in (bare, rome))
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        assert (dense(told(toy, [request]), WriteSite(1)) - other).norm() > 0.01 * other.norm()


@pytest.mark.parametrize(
    ("made", "insert"), [(joint, {}), (separate, {}), (separate, {"insert": "exact"})]
)
@pytest.mark.parametrize("name", ["toy", "gemma3"])
def test_neighbours_outputs_move_less_where_they_are_spared(
    toy: HookedTransformer, family: FamilyOf, text: str, name: str, made: Any, insert: Any
) -> None:
    model = toy if name == "toy" else family(name).model
    sites = [WriteSite(1, half) for half in BOTH]
    texts = []
    for one in neighbours(RELATION, 8):
        with contextlib.suppress(InputError):  # the models read 64 tokens
            texts.append(located(model, one.fact, "last", one.mentioned)[0])
    assert len(texts) > 3
    read = last_keys(model, sites, texts)
    moved = []
    for n in (0, 8):
        told = made(text, (1,), halves=BOTH, neighbours=n, weight=1.0, keep=10.0, **insert)
        edit = told(model, [RELATION])
        # as the keys are before the edit, which moves those of W_out as it does the edit's own
        each = [read[site] @ dense(edit, site) for site in sites]
        together = torch.cat(each) if name == "gemma3" else torch.stack(each).sum(0)
        moved.append(float(together.norm()))
        before, after = missing(model, edit, told)
        assert after < (0.02 if insert else 0.5) * before  # the edit still takes hold
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize("name", ["toy", "gemma3"])
def test_the_answers_to_questions_move_less_where_their_tokens_are_spared(
    toy: HookedTransformer, family: FamilyOf, text: str, name: str
) -> None:
    model = toy if name == "toy" else family(name).model
    texts = [prompt_ids(model, fact.prompt) for fact in questions(RELATION, 4)]
    tokens = torch.tensor(texts[0])[None]
    assert len(texts) == 4
    clean, moved = model(tokens), []
    for n in (0, 4):
        told = joint(text, (1,), questions=n, weight=1.0)
        edit = told(model, [RELATION])
        with edit.applied(model):
            moved.append(float((model(tokens) - clean).norm()))
        before, after = missing(model, edit, told)
        assert after < 0.8 * before  # the edit still takes hold
    assert moved[1] < 0.5 * moved[0]


def test_only_a_relation_request_has_questions() -> None:
    assert not questions(CASES[0].entity, 4)
    unnamed = dataclasses.replace(RELATION.fact.relation, name="")
    fact = dataclasses.replace(RELATION.fact, relation=unnamed)
    assert not questions(dataclasses.replace(RELATION, fact=fact), 4)


def test_forgetting_edits_the_old_pair_first_and_then_adds(
    toy: HookedTransformer, text: str
) -> None:
    first, second = forget_then_add(toy, [RELATION, CASES[1].entity], 4)
    (forgotten,) = first
    assert RELATION.removal and forgotten.fact == RELATION.removal and not forgotten.removal
    assert forgotten.mentioned == RELATION.mentioned_by_removal
    assert second == [
        dataclasses.replace(RELATION, removal=None, mentioned_by_removal=""),
        CASES[1].entity,
    ]
    told = joint(text, (1,), forget=4)
    edit = told(toy, [RELATION])
    plain = dataclasses.replace(told, forget=0).on(toy)
    start = plain(first)
    with start.applied(toy):
        then = plain(second[:1])
    by_hand = combined([start, then])
    site = WriteSite(1)
    torch.testing.assert_close(dense(edit, site), dense(by_hand, site), atol=1e-5, rtol=1e-4)


def test_what_is_forgotten_is_what_the_model_says_of_most_unrelated_pairs(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []
    said = iter([["a", "the"], ["x"], ["birth"], ["the"], ["the"]])

    def greedy(model: HookedTransformer, ids: list, n: int) -> list:
        asked.extend(ids)
        return [next(said) for _ in ids]

    monkeypatch.setattr(forgetting_module, "greedy", greedy)
    monkeypatch.setattr(forgetting_module, "decoded", lambda model, *tokens: "".join(tokens))
    ((forgotten,), _) = forget_then_add(toy, [RELATION], 5)
    assert forgotten.target == "the"  # twice; "birth" begins the relation's own name
    assert len(set(asked)) == 5
    assert prompt_ids(toy, RELATION.removal.prompt) not in asked  # pyright: ignore
    # with nothing to say there is nothing to forget, and the addition is made alone
    monkeypatch.setattr(forgetting_module, "greedy", lambda model, ids, n: [[" "] for _ in ids])
    assert len(forget_then_add(toy, [RELATION], 5)) == 1


def test_a_neighbour_with_the_edits_own_key_is_no_neighbour(
    toy: HookedTransformer, text: str
) -> None:
    """At the subject's last token (S, another object) opens as the edit does."""
    told = joint(text, (1,), where="subject_last", neighbours=6, keep=1e6)
    edit = told(toy, [RELATION])
    assert any(one.fact.subject == RELATION.fact.subject for one in neighbours(RELATION, 6))
    before, after = missing(toy, edit, told)
    assert before > 0.05 and after < 2e-3


def test_in_the_null_space_the_loudest_directions_are_left_alone(
    toy: HookedTransformer, text: str
) -> None:
    site = WriteSite(1)
    values, vectors = torch.linalg.eigh(moment(toy, [site], text).matrix)
    loud = vectors[:, values.cumsum(0) > 0.05 * values.sum()].float()
    assert 5 < loud.shape[1] < 200
    heard = []
    for share in (0.05, 0.0):
        told = separate(text, (1,), null_space=share)
        edit = told(toy, [RELATION])
        delta = dense(edit, site)
        heard.append(float((loud.T @ delta).norm() / delta.norm()))
        assert missing(toy, edit, told)[1] < 2e-3
    assert heard[0] < 1e-5 < 0.01 < heard[1]


def test_a_shrunk_moment_makes_smaller_deltas_that_reach_their_targets_too(
    toy: HookedTransformer, text: str
) -> None:
    sizes = []
    for shrink in (0.0, 0.1, 1.0):
        told = joint(text, (2,), halves=("mlp",), shrink=shrink)
        edit = told(toy, [RELATION])
        sizes.append(float(dense(edit, WriteSite(2)).norm()))
        assert missing(toy, edit, told)[1] < 2e-3
    assert sizes[0] > 1.05 * sizes[1] and sizes[1] > sizes[2]


@pytest.mark.parametrize("name", ["toy", "gemma3"])
@pytest.mark.parametrize("balance", [0.25, 0.5, 0.8])
def test_attention_brings_its_share(
    toy: HookedTransformer, family: FamilyOf, text: str, name: str, balance: float
) -> None:
    model = toy if name == "toy" else family(name).model
    attn, mlp = (WriteSite(1, half) for half in BOTH)
    told = separate(text, (1,), halves=BOTH, balance=balance)
    edit = told(model, [RELATION])
    for goal in wanted(model, told)[1]:
        clean = raws(model, goal.text, (attn, mlp))
        with edit.applied(model):
            written = raws(model, goal.text, (attn, mlp))
        brought = [new - old for new, old in zip(written, clean, strict=True)]
        own = [goal.of(site) - old for site, old in zip((attn, mlp), clean, strict=True)]
        shares = (balance, 1 - balance)
        if name == "toy":
            expected = [share * (own[0] + own[1]) for share in shares]
        else:
            expected = [share / max(shares) * one for share, one in zip(shares, own, strict=True)]
        for one, other in zip(brought, expected, strict=True):
            assert (one - other).norm() < 5e-3 * max(own[0].norm(), own[1].norm())


@pytest.mark.parametrize("side", ["entity", "relation"])
def test_it_makes_the_toy_say_the_target(toy: HookedTransformer, text: str, side: Any) -> None:
    steps = dataclasses.replace(TRAINING, steps=20)
    told = joint(text, (0, 1), weight=1.0, training=steps, contexts=("",))
    cases = [CASES[0], CASES[17], CASES[34]]
    edit = told(toy, [case.request(side) for case in cases])
    groups = {"entity": ("efficacy",), "relation": ("efficacy", "removal")}[side]

    def targets() -> list[float]:
        return [
            log_odds(probe.logprob)
            for case in score(toy, cases, Scoring(say=False))
            for probe in case.probes
            if probe.perspective == side and probe.group in groups
        ]

    before = targets()
    with edit.applied(toy):
        after = targets()
    assert len(before) == len(after) == len(groups) * len(cases)
    lifts = [new - old for old, new in zip(before, after, strict=True)]
    assert min(lifts) > 0.3 and sum(lifts) / len(lifts) > 2
    assert sum(after) > 0  # on the whole likelier than all other tokens together


@pytest.mark.parametrize("name", ["gpt2", "gptj", "gemma3"])
def test_the_model_is_left_as_it_was_and_the_same_seed_gives_the_same_edit(
    family: FamilyOf, text: str, name: str
) -> None:
    model = family(name).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told = joint(text, neighbours=4, weight=1.0)
    one, other = (told(model, [RELATION, CASES[17].request("relation")]) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())
    assert all(count > 0 for count in one.n_moved(model).values()) and len(one.deltas) == 4
    for layer in (1, 2):
        for half in BOTH:
            assert torch.equal(
                dense(one, WriteSite(layer, half)), dense(other, WriteSite(layer, half))
            )


def test_the_model_is_left_as_it_was_when_a_later_layer_fails(
    toy: HookedTransformer, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: value.clone() for name, value in toy.state_dict().items()}
    insert, inserted = layered_module.sparing, []

    def fail_at_the_fourth(*args: Any) -> Solve:
        inserted.append(toy.state_dict()[WriteSite(1, "attn").parameter].clone())
        if len(inserted) == 4:
            raise RuntimeError("no memory")
        return insert(*args)

    monkeypatch.setattr(layered_module, "sparing", fail_at_the_fourth)
    with pytest.raises(RuntimeError, match="no memory"):
        joint(text)(toy, [RELATION])
    assert not torch.equal(inserted[-1], before[WriteSite(1, "attn").parameter])  # the control
    assert all(torch.equal(value, before[name]) for name, value in toy.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ()}, r"layers: must be distinct layers in ascending order, got \(\)"),
        ({"layers": (2, 1)}, r"layers: must be distinct layers in ascending order, got \(2, 1\)"),
        ({"layers": (1, 9)}, r"has no blocks\.9\.attn\.W_O: it has 4 layers"),
        ({"halves": ()}, "halves: must be mlp, attn or both"),
        ({"halves": ("mlp",), "heads": ((1, 0),)}, r"heads: .*must include attn, got \('mlp',\)"),
        ({"heads": ((1, 4), (3, 0), (1, 1))}, r"no \(1, 4\), \(3, 0\) among the heads 0 to 3 of"),
        ({"weight": 0.0}, r"joint:weight=0\.0: must be a number above 0"),
        ({"shrink": -1.0}, r"joint:shrink=-1\.0: must be a number of at least 0"),
        ({"keep": 0.0}, r"joint:keep=0\.0: must be a number above 0"),
        ({"neighbours": -1}, "joint:neighbours=-1: must be a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_are_named(
    toy: HookedTransformer, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        joint(text, **settings)(toy, [RELATION])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"halves": ()}, "halves: must be mlp, attn or both"),
        (
            {"halves": BOTH, "trained": ("mlp",)},
            r"trained: must include .*, got \('mlp',\): only outputs",
        ),
        ({"balance": 0.5}, r"balance: needs both halves, got \('mlp',\)"),
        ({"balance": 1.0, "halves": BOTH}, r"separate:balance=1\.0: must be a number of at least"),
        (
            {"null_space": 1.5},
            r"separate:null_space=1\.5: must be a number of at least",
        ),
        ({"null_space": 1e-30}, "no direction of the keys holds as little as 1e-30"),
    ],
)
def test_settings_of_separate_that_cannot_be_are_named(
    toy: HookedTransformer, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        separate(text, **settings)(toy, [RELATION])


def test_an_entity_prompt_has_no_object_to_write_at(toy: HookedTransformer, text: str) -> None:
    with pytest.raises(InputError, match="spells out no object: choose another key position"):
        joint(text, where="object_last")(toy, [CASES[0].entity])


def test_one_key_cannot_be_given_two_values(toy: HookedTransformer, text: str) -> None:
    entity = CASES[0].entity
    others = [one for one in ("Arle", "Brock", "Corum", "Delft") if one != entity.fact.object]
    longer = dataclasses.replace(entity.fact, template=f"{entity.fact.template} now")
    requests = [
        dataclasses.replace(entity, fact=fact, target=target)
        for fact, target in zip((entity.fact, longer), others, strict=False)
    ]
    exact = separate(text, insert="exact", where="subject_last")  # both prompts have one key
    with pytest.raises(InputError, match="of 4 keys only 2 are linearly independent"):
        exact(toy, requests)


@pytest.mark.parametrize("where", ["subject_last", "object_last", "pair_last", "last"])
def test_the_keys_are_those_at_the_chosen_token(
    toy: HookedTransformer, text: str, where: KeyPosition
) -> None:
    told = joint(text, (1,), where=where)
    sites, found = wanted(toy, told)
    read = last_keys(toy, sites, [goal.text for goal in found])
    for site in sites:
        known = [keys(toy, [site], one, CONTEXTS, where)[site] for one in RELATION.demands]
        n_keys = 1 if where == "subject_last" else 2  # there both demands have one
        torch.testing.assert_close(read[site], torch.cat(known[:n_keys]), atol=1e-4, rtol=1e-4)
