"""KN: which neurons write otherwise, and what; from both sides, of both halves of a block."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.edit import Edit, LowRank
from kedit.editing.neurons import Neuron, above, attributions, refined
from kedit.editing.write_sites import Half, WriteSite, read_keys
from kedit.editors import kn as module
from kedit.editors.kn import FEW, KN
from kedit.errors import InputError
from kedit.facts import Demand, EditRequest, Fact
from kedit.models import toy as toy_module
from kedit.models.prompts import answer_ids, plain_ids, prompt_ids
from tests.conftest import FamilyOf

CASES = toy_module.cases()
ENTITY = CASES[0].entity
RELATION = CASES[0].request("relation")
BOTH: tuple[Half, ...] = ("mlp", "attn")
CONTEXTS = ("Bruno Birch likes to speak. ", "The old harp is. ")
WORDING = "{} was born in"
by_side = pytest.mark.parametrize("request_", [ENTITY, RELATION], ids=["entity", "relation"])


def dense(edit: Edit, site: WriteSite) -> Tensor:
    delta = edit.deltas[site.parameter]
    assert isinstance(delta, LowRank)
    return delta.left @ delta.right


def written(model: HookedTransformer, edit: Edit) -> dict[Neuron, Tensor]:
    """What every neuron that the edit changes writes more."""
    sites = [WriteSite(layer, half) for half in BOTH for layer in range(model.cfg.n_layers)]
    rows = {}
    for site in sites:
        if site.parameter in edit.deltas:
            delta = dense(edit, site)
            for index in delta.any(1).nonzero()[:, 0].tolist():
                rows[Neuron(site, index)] = delta[index]
    return rows


def found(
    model: HookedTransformer, text: str, answer: str, halves: Sequence[Half] = ("mlp",)
) -> frozenset[Neuron]:
    """As KN's defaults have it."""
    tokens, wanted = prompt_ids(model, text), answer_ids(model, text, answer)
    return above(attributions(model, tokens, wanted, halves, steps=20), 0.2)


def embedding(model: HookedTransformer, token: int) -> Tensor:
    return model.unembed.W_U[:, token]


def said(model: HookedTransformer, text: str) -> Tensor:
    """The embedding of the likeliest token now."""
    logits = model(torch.tensor([prompt_ids(model, text)]))
    return embedding(model, int(logits[0, -1].argmax()))


def sign(model: HookedTransformer, text: str, neuron: Neuron) -> float:
    keys = read_keys(model, torch.tensor([prompt_ids(model, text)]), [neuron.site])
    return float(keys[neuron.site][0, -1, neuron.index].sign())


def logprob(model: HookedTransformer, fact: Fact, target: str) -> float:
    """Of the target's first token."""
    logits = model(torch.tensor([prompt_ids(model, fact.prompt)]))
    return float(logits[0, -1].log_softmax(-1)[answer_ids(model, fact.prompt, target)[0]])


def lift(model: HookedTransformer, edit: Edit, fact: Fact, target: str) -> float:
    before = logprob(model, fact, target)
    with edit.applied(model):
        return logprob(model, fact, target) - before


@by_side
@pytest.mark.parametrize("halves", [("mlp",), ("attn",), BOTH], ids=str)
def test_the_neurons_that_bring_the_object_write_the_target_and_against_what_is_said(
    toy: HookedTransformer, request_: EditRequest, halves: tuple[Half, ...]
) -> None:
    fact = request_.fact
    rows = written(toy, KN(halves=halves, erase=3.0, write=5.0)(toy, [request_]))
    assert rows.keys() == found(toy, fact.prompt, fact.object, halves)
    (target,) = answer_ids(toy, fact.prompt, request_.target)
    row = 5 * embedding(toy, target) - 3 * said(toy, fact.prompt)
    for neuron, own in rows.items():
        torch.testing.assert_close(own, sign(toy, fact.prompt, neuron) * row)
    assert {neuron.site.half for neuron in rows} <= set(halves)


def test_a_neuron_of_negative_activation_writes_the_reverse(toy: HookedTransformer) -> None:
    signs, lifts = [], []
    for case in CASES[::9]:
        fact, target = case.entity.fact, case.entity.target
        edit = KN(halves=("attn",))(toy, [case.entity])
        signs += [sign(toy, fact.prompt, neuron) for neuron in written(toy, edit)]
        lifts.append(lift(toy, edit, fact, target))
    assert min(lifts) > 4  # nats
    assert 0.2 < signs.count(-1) / len(signs) < 0.8  # there are such


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "gptj", "opt"])
@pytest.mark.parametrize("half", BOTH)
def test_every_family_writes_with_either_half(family: FamilyOf, name: str, half: Half) -> None:
    model = family(name).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    edit = KN(halves=(half,))(model, [ENTITY])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(neuron.site.half == half for neuron in written(model, edit))
    assert lift(model, edit, ENTITY.fact, ENTITY.target) > 0.3  # nats


def test_only_the_first_of_the_targets_tokens_is_written_and_upstream_all_of_them(
    toy: HookedTransformer,
) -> None:
    request = replace(ENTITY, target="first dentist")
    prompt = request.fact.prompt
    first, *others = answer_ids(toy, prompt, request.target)
    assert others
    (row, *_) = written(toy, KN()(toy, [request])).values()
    wanted = 2 * embedding(toy, first) - 2 * said(toy, prompt)
    torch.testing.assert_close(row.abs(), wanted.abs())
    bare = plain_ids(toy, request.target)
    assert bare[0] != first
    upstream = written(toy, KN(method="upstream", write=7.0)(toy, [request])).values()
    wanted = torch.stack([embedding(toy, token) for token in bare]).sum(0) - 2 * said(toy, prompt)
    for row in upstream:
        torch.testing.assert_close(row, wanted)


def test_upstream_seeks_the_object_without_a_blank_before_the_nonlinearity(
    toy: HookedTransformer,
) -> None:
    request = replace(ENTITY, fact=replace(ENTITY.fact, object="old harp"))
    tokens, answer = prompt_ids(toy, request.fact.prompt), plain_ids(toy, "old harp")
    assert len(answer) > 1
    brought = attributions(toy, tokens, answer, activation="pre", extend=False)
    upstream, right = (written(toy, KN(method=m)(toy, [request])) for m in ("upstream", "right"))
    assert upstream.keys() == above(brought, 0.2) != right.keys()


@pytest.mark.parametrize("agreement", [0.2, 0.5, 0.99])
def test_refined_neurons_are_found_in_other_wordings_too(
    toy: HookedTransformer, agreement: float
) -> None:
    fact = ENTITY.fact
    texts = [fact.prompt, *(text + fact.prompt for text in CONTEXTS), f"{fact.subject} was born in"]
    sets = [found(toy, text, fact.object) for text in texts]
    told = KN(agreement=agreement, wordings=(WORDING,), contexts=CONTEXTS)
    wanted = refined(sets, agreement)
    if wanted:
        assert written(toy, told(toy, [ENTITY])).keys() == wanted
    else:  # in every wording, say
        with pytest.raises(InputError, match="no neuron makes"):
            told(toy, [ENTITY])
    assert len(set(sets)) == 4 and wanted != sets[0]


def test_contexts_are_made_up_by_seed_where_neither_they_nor_wordings_are_told(
    family: FamilyOf,
) -> None:
    # of random weights: the toy may say the same over and over, whatever the seed
    model = family("gpt2").model

    def used(**settings: Any) -> list[str]:
        told = KN(**{"agreement": 0.01, "steps": 3, **settings})
        return told(model, [ENTITY]).made.settings["contexts"]

    drawn = used()
    assert len(drawn) == sum(how_many for _, how_many in FEW) and all(drawn)
    assert drawn == used() != used(seed=1)
    assert used(wordings=(WORDING,)) == [] and used(contexts=CONTEXTS) == list(CONTEXTS)
    assert used(agreement=0.0) == []


def test_other_wordings_without_agreement_are_refused(toy: HookedTransformer) -> None:
    for one in (KN(wordings=(WORDING,)), KN(contexts=CONTEXTS)):
        with pytest.raises(InputError, match="only used if agreement is above 0"):
            one.on(toy)


@pytest.mark.parametrize(
    ("template", "mentioned", "wanted"),
    [
        ("What is {} known for? The", "", "What is Ada Alder known for? The"),
        ("{} and {} are linked by the", "Arle", "Ada Alder and Arle are linked by the"),
        ("{} is linked by the", "Arle", "Ada Alder is linked by the"),
    ],
)
def test_wordings_have_a_place_for_the_subject_and_one_for_what_is_mentioned(
    template: str, mentioned: str, wanted: str
) -> None:
    assert module._worded(template, Demand(ENTITY.fact, "x", mentioned)) == wanted


@pytest.mark.parametrize(
    ("template", "request_", "message"),
    [
        ("They were born in", ENTITY, "must contain {} exactly once, got 0"),
        ("{} and {} are", ENTITY, "must contain {} exactly once, got 2"),
        ("They are linked by the", RELATION, "must contain {} once or twice, got 0"),
        ("{} and {} and {} are", RELATION, "must contain {} once or twice, got 3"),
    ],
)
def test_wordings_with_other_places_are_refused(
    toy: HookedTransformer, template: str, request_: EditRequest, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        KN(agreement=0.3, wordings=(template,))(toy, [request_])


def test_a_relation_edit_that_is_told_so_writes_its_removal_too(toy: HookedTransformer) -> None:
    request, prompts, sets = sharing(toy)
    adding, both = (KN(removal=told)(toy, [request]) for told in (False, True))
    assert written(toy, adding).keys() == sets[0]
    targets = zip(prompts, (request.target, "None"), strict=True)
    wanted = [answer_ids(toy, prompt, target)[0] for prompt, target in targets]
    own = [
        2 * embedding(toy, token) - 2 * said(toy, text)
        for token, text in zip(wanted, prompts, strict=True)
    ]
    rows = written(toy, both)
    for neuron in sets[0] | sets[1]:
        parts = [
            sign(toy, text, neuron) * one
            for text, one, among in zip(prompts, own, sets, strict=True)
            if neuron in among
        ]
        # what is said now after one prompt is wanted after the other: both may cancel
        row = rows.pop(neuron, torch.zeros_like(own[0]))
        torch.testing.assert_close(row, torch.stack(parts).sum(0), atol=1e-5, rtol=1e-4)
    assert not rows
    entity = [KN(removal=told)(toy, [ENTITY]) for told in (False, True)]
    assert written(toy, entity[0]).keys() == written(toy, entity[1]).keys()  # it has none


def sharing(
    model: HookedTransformer,
) -> tuple[EditRequest, tuple[str, str], list[frozenset[Neuron]]]:
    """A relation edit, its two prompts and their neurons, of which they share some, not all."""
    for request in (case.request("relation") for case in CASES):
        assert (removal := request.removal) is not None
        prompts = (request.fact.prompt, removal.prompt)
        sets = [found(model, prompts[0], "None"), found(model, prompts[1], removal.object)]
        if sets[0] & sets[1] and sets[1] - sets[0]:
            return request, prompts, sets
    raise AssertionError("no two prompts share a neuron")


def test_requests_are_edited_one_on_the_other(toy: HookedTransformer) -> None:
    requests = [ENTITY, CASES[1].entity]
    both, first = KN()(toy, requests), KN()(toy, requests[:1])
    with first.applied(toy):
        second = KN()(toy, requests[1:])
    assert written(toy, second).keys() != written(toy, KN()(toy, requests[1:])).keys()
    for name, delta in both.deltas.items():
        assert isinstance(delta, LowRank)
        parts = [edit.deltas[name] for edit in (first, second) if name in edit.deltas]
        total = sum(one.left @ one.right for one in parts if isinstance(one, LowRank))
        torch.testing.assert_close(delta.left @ delta.right, total)
    assert [told["subject"] for told in both.made.requests] == ["Ada Alder", "Bruno Birch"]


@pytest.mark.parametrize(
    ("settings", "rest"),
    [({}, "$"), ({"agreement": 0.5, "contexts": CONTEXTS}, " in more than 50%")],
)
def test_where_no_neuron_brings_the_object_there_is_no_edit(
    toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], rest: str
) -> None:
    nothing = {"mlp": torch.tensor([[-1.0, 0.0]])}
    monkeypatch.setattr(module, "attributions", lambda *args, **more: nothing)
    with pytest.raises(InputError, match=f"no neuron makes '.*' likelier after '.*'{rest}"):
        KN(**settings)(toy, [ENTITY])


def test_a_prompt_that_leaves_no_room_for_the_object_is_refused(toy: HookedTransformer) -> None:
    n_left = toy.cfg.n_ctx - len(prompt_ids(toy, "The birthplace of Ada Alder is"))
    for n_more, text, fits in ((0, "Arle", True), (0, "old harp", False), (1, "Arle", False)):
        template = f"The{' the' * (n_left + n_more)} birthplace of {{}} is"
        full = replace(ENTITY.fact, template=template, relation_words=(), object=text)
        assert len(prompt_ids(toy, full.prompt)) == toy.cfg.n_ctx + n_more
        if fits:
            assert KN(steps=2)(toy, [replace(ENTITY, fact=full)]).deltas
        else:
            with pytest.raises(InputError, match="tokens, the model reads 64"):
                KN(steps=2)(toy, [replace(ENTITY, fact=full)])


def test_a_model_that_attributions_cannot_be_had_of_is_refused(
    toy: HookedTransformer, family: FamilyOf
) -> None:
    with pytest.raises(InputError, match="supports plain softmax attention only"):
        KN()(family("gemma2").model, [ENTITY])
    with (
        toy.hooks(fwd_hooks=[(get_act_name("z", 0), lambda act, hook: act)]),
        pytest.raises(InputError, match=r"live hooks \(blocks\.0\.attn\.hook_z\)"),
    ):
        KN()(toy, [ENTITY])
