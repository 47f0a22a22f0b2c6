"""An edited model read from its lowest edited layer on: the same numbers, without the layers below.

The slow twin is the same call without kept states.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.utilities.components_utils import get_act_name

from kedit.editing.checks import checked
from kedit.editing.edit import Edit
from kedit.editing.provenance import made_by, unedited_part
from kedit.editing.weights import lowest_edited
from kedit.facts import EditCase
from kedit.forward import kept as kept_module
from kedit.forward import reading
from kedit.forward.generation import greedy
from kedit.forward.kept import KeptStates
from kedit.forward.likelihood import Query, likelihoods
from kedit.models import toy as toy_module
from kedit.scoring import drift as drift_module
from kedit.scoring.drift import baseline, held_out
from kedit.scoring.score import Scoring, score
from tests.conftest import FamilyOf

CASES = toy_module.cases()[:2]
RANKED = Scoring(tuple(sorted({p.label for case in CASES for p in case.probes if p.label})))
PROMPTS = [(0, 4, 8, 15, 16, 23), (0, 4, 8, 15, 42), (0, 9), (0, 11, 3)]
QUERIES = [
    Query(prompt, ((7, 8), (9,)), tuple((20 + n, 30, 31)[: 1 + n % 3] for n in range(12)))
    for prompt in PROMPTS
]


def edit_of(model: HookedTransformer, *names: str, seed: int = 0) -> Edit:
    """An edit by noise of these weights."""
    weights, draw = dict(model.named_parameters()), torch.Generator().manual_seed(seed)
    deltas = {
        name: 0.3 * weights[name].std() * torch.randn(weights[name].shape, generator=draw)
        for name in names
    }
    return Edit(deltas, made_by("by hand", {}, [CASES[0].entity], model))


def edits_of(toy: HookedTransformer) -> list[Edit]:
    """Edits whose lowest edited layer goes up and down; two of them change one matrix."""
    return [
        edit_of(toy, "blocks.2.mlp.W_out", "blocks.3.attn.W_O"),
        edit_of(toy, "blocks.1.attn.W_O"),
        edit_of(toy, "blocks.3.mlp.W_out", "blocks.2.mlp.W_in"),
        edit_of(toy, "blocks.2.mlp.W_out", seed=1),
        edit_of(toy, "embed.W_E", "blocks.3.mlp.W_out"),
        edit_of(toy, "pos_embed.W_pos"),
        edit_of(toy, "blocks.0.mlp.W_out"),
        edit_of(toy, "unembed.W_U"),
    ]


@pytest.fixture
def kept() -> KeptStates:
    return KeptStates(unedited_part)


@pytest.fixture
def layers_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers that scoring has run so far."""
    found: list[int] = []
    for module in (reading, drift_module):
        run = module.run_blocks

        def running(model: HookedTransformer, layers: range, *rest: object, run: Callable = run):
            found.extend(layers)
            return run(model, layers, *rest)

        monkeypatch.setattr(module, "run_blocks", running)
    return found


@pytest.mark.slow
def test_edited_models_have_the_scores_that_they_have_without_kept_states(
    toy: HookedTransformer, kept: KeptStates
) -> None:
    text, found = baseline(toy, held_out(toy, "", 2)), []
    for edit in edits_of(toy) * 2:
        slow = checked(toy, edit, [CASES[0].entity], text)
        fast = checked(toy, edit, [CASES[0].entity], text, kept=kept)
        assert fast.trouble == slow.trouble and fast.drift and slow.drift
        assert torch.equal(fast.drift.after, slow.drift.after)
        assert torch.equal(fast.drift.kl, slow.drift.kl)
        with edit.applied(toy):
            for case in CASES:
                found.append(score(toy, [case], RANKED, kept=kept))
                assert found[-1] == score(toy, [case], RANKED)
    assert len(set(map(str, found))) == len(CASES) * len(edits_of(toy))  # every edit does something


def test_only_layers_from_the_lowest_edited_one_on_run_again(
    toy: HookedTransformer, kept: KeptStates, layers_run: list[int]
) -> None:
    text = baseline(toy, held_out(toy, "", 2))
    first, lower, third, same = edits_of(toy)[:4]

    def layers_of(edit: Edit, case: EditCase = CASES[0]) -> set[int]:
        """The layers that run when the edit is checked and the case is scored."""
        layers_run.clear()
        checked(toy, edit, [case.entity], text, kept=kept)
        with edit.applied(toy):
            # without greedy text, whose tokens are new and pass all layers
            score(toy, [case], replace(RANKED, say=False), kept=kept)
        return set(layers_run)

    assert layers_of(first) == {0, 1, 2, 3}
    assert layers_of(third) == layers_of(same) == {2, 3}
    assert layers_of(lower) == {0, 1, 2, 3}  # the residual that enters layer 1 is not kept yet
    assert layers_of(lower) == {1, 2, 3}
    assert layers_of(first) == {2, 3}
    # by now it is known that edits of layer 1 will come
    assert layers_of(first, CASES[1]) == {0, 1, 2, 3}
    assert layers_of(lower, CASES[1]) == {1, 2, 3}


def test_the_lowest_edited_layer(toy: HookedTransformer) -> None:
    assert lowest_edited(toy) == toy.cfg.n_layers
    lowest = []
    for edit in edits_of(toy):
        with edit.applied(toy):
            lowest.append(lowest_edited(toy))
    assert lowest == [2, 1, 2, 2, 0, 0, 0, toy.cfg.n_layers]
    outer, inner = edits_of(toy)[:2]
    with outer.applied(toy), inner.applied(toy):
        assert lowest_edited(toy) == 1


@torch.no_grad()
def test_states_of_other_weights_are_not_used(toy: HookedTransformer, kept: KeptStates) -> None:
    model = copy.deepcopy(toy)
    # what it would look like: told that nothing changes, the states are used under other weights
    deceived = KeptStates(lambda model: (2, "the same weights"))
    for keeper in (kept, deceived):
        likelihoods(model, QUERIES, keeper)
    model.blocks[0].mlp.W_out.mul_(1.5)  # no edit, a change by the user
    expected = likelihoods(model, QUERIES)
    assert likelihoods(model, QUERIES, kept) == expected
    assert likelihoods(model, QUERIES, deceived) != expected
    # another model with its own weights, and the first one again
    assert likelihoods(toy, QUERIES, kept) == likelihoods(toy, QUERIES) != expected
    assert likelihoods(model, QUERIES, kept) == expected
    wider = copy.deepcopy(model).double()
    wider.cfg.dtype = torch.float64
    assert likelihoods(wider, QUERIES, kept) == likelihoods(wider, QUERIES)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "mistral", "gemma2"])
def test_every_family_is_read_alike(family: FamilyOf, name: str, kept: KeptStates) -> None:
    model = family(name).model
    edits = [edit_of(model, f"blocks.{layer}.mlp.W_out", seed=layer) for layer in (2, 1, 2)]
    for edit in edits:
        with edit.applied(model):
            assert likelihoods(model, QUERIES, kept) == likelihoods(model, QUERIES)
            assert greedy(model, PROMPTS, 4, kept) == greedy(model, PROMPTS, 4)
    assert bool(kept._texts) is (name != "gemma2")  # its attention is not plain


def test_hooks_see_every_layer(toy: HookedTransformer, kept: KeptStates) -> None:
    def halved(resid: Tensor, hook: object) -> Tensor:
        return resid / 2

    (edit, *_), calls = edits_of(toy), []
    with edit.applied(toy):
        unhooked = likelihoods(toy, QUERIES, kept)
        with toy.hooks([(get_act_name("resid_post", 0), halved)]):
            calls = [likelihoods(toy, QUERIES, each) for each in (kept, None)]
        assert calls[0] == calls[1] != unhooked
        assert likelihoods(toy, QUERIES, kept) == unhooked


def test_memory_is_bounded(toy: HookedTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept_module.KEPT_BYTES <= 2**29
    edit = edits_of(toy)[0]
    with edit.applied(toy):
        whole = KeptStates(unedited_part)
        expected = likelihoods(toy, QUERIES, whole)
        sizes = [each.n_bytes for each in whole._texts.values()]
        assert len(sizes) == 4 and all(sizes)  # openings, prompts, answers, competitors
        for limit, n_left in ((0, 0), (sizes[-1], 1), (sum(sizes) - 1, 3)):
            small = KeptStates(unedited_part, limit)
            for _ in range(2):
                assert likelihoods(toy, QUERIES, small) == expected
            assert len(small._texts) == n_left
