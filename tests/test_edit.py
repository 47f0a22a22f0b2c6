"""Edits: undone to the bit, composable, kept in a file, refused where they do not belong."""

import contextlib
import copy
import dataclasses
import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformer_lens import HookedTransformer

from kedit import cache as kept
from kedit import digests
from kedit.editing.edit import Delta, Edit, LowRank, combined, edit_in_turn
from kedit.editing.provenance import (
    Provenance,
    current_fingerprint,
    described,
    fingerprint,
    made_by,
)
from kedit.editing.write_sites import WriteSite, flat
from kedit.errors import InputError
from kedit.facts import EditRequest, Fact, Relation
from kedit.models import hugging_face
from kedit.models import toy as toy_module
from kedit.models.load import prepare, quiet
from tests.conftest import CONFIGS, FAMILIES, FamilyOf, random_module

TOKENS = torch.tensor([[0, 5, 9, 200, 201]])
W_OUT, W_O = "blocks.1.mlp.W_out", "blocks.2.attn.W_O"
REQUEST = EditRequest(
    Fact("Ada", Relation("P103", "language"), "Danish", "The language of {} is"), "Greek"
)


def low_rank(weight: Tensor, seed: int = 0, rank: int = 2) -> LowRank:
    """Random factors whose product is about as large as `weight`."""
    generator = torch.Generator().manual_seed(seed)
    d_key, d_model = flat(weight).shape
    left = torch.randn(d_key, rank, generator=generator) * float(weight.std())
    return LowRank(left, torch.randn(rank, d_model, generator=generator))


def random_edit(model: HookedTransformer, seed: int = 0) -> Edit:
    """Low rank on W_out and W_O of the middle layers, and a full delta on W_in."""
    parameters = dict(model.named_parameters())
    generator = torch.Generator().manual_seed(seed + 100)
    deltas: dict[str, Delta] = {name: low_rank(parameters[name], seed) for name in (W_OUT, W_O)}
    w_in = parameters["blocks.1.mlp.W_in"]
    deltas["blocks.1.mlp.W_in"] = 0.1 * torch.randn(w_in.shape, generator=generator)
    return Edit(deltas, made_by(f"random {seed}", {"seed": seed}, [REQUEST], model))


def another_model(name: str, seed: int) -> HookedTransformer:
    """A model of the family's shape with other weights."""
    hf = random_module(CONFIGS[name]())
    generator = torch.Generator().manual_seed(seed)
    for weight in hf.parameters():
        weight.data += 0.01 * torch.randn(weight.shape, generator=generator)
    with quiet():
        return prepare(hugging_face.hooked(hf, torch.float32), toy_module.tokenizer())


def bits(model: HookedTransformer) -> dict[str, tuple[Tensor, tuple[int, ...], int]]:
    """Every parameter to the bit (-0.0 is not 0.0), its strides and where it lies."""
    return {
        name: (weight.detach().view(torch.int32).clone(), weight.stride(), weight.data_ptr())
        for name, weight in model.named_parameters()
    }


def assert_same_bits(model: HookedTransformer, before: dict) -> None:
    for name, (values, stride, place) in bits(model).items():
        assert torch.equal(values, before[name][0]), name
        assert (stride, place) == before[name][1:], name


def with_deltas(edit: Edit, **deltas: Delta) -> Edit:
    """`edit` with other deltas: W_out= or W_O=."""
    names = {"W_out": W_OUT, "W_O": W_O}
    return dataclasses.replace(edit, deltas={names[key]: delta for key, delta in deltas.items()})


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_an_edit_moves_the_logits_in_its_block_and_nothing_behind_it(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    edit, before, logits = random_edit(model), bits(model), model(TOKENS)
    with edit.applied(model) as edited:
        assert edited is model
        assert (model(TOKENS) - logits).abs().max() > 0.1  # the control: something could change
        for parameter, (values, stride, place) in bits(model).items():
            assert (stride, place) == before[parameter][1:]
            assert torch.equal(values, before[parameter][0]) == (parameter not in edit.deltas)
    assert_same_bits(model, before)
    assert torch.equal(model(TOKENS), logits)


@pytest.mark.parametrize("half", ["mlp", "attn"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_other_views_of_the_weight_see_what_is_added(
    family: FamilyOf, name: str, half: str
) -> None:
    model = family(name).model
    site = WriteSite(1, half)  # pyright: ignore[reportArgumentType]
    view = site.weight(model)
    before, delta = view.clone(), low_rank(view)
    with Edit({site.parameter: delta}, made_by("x", {}, [], model)).applied(model):
        assert torch.equal(view, before + delta.left @ delta.right)
    assert torch.equal(view, before)


def test_an_edit_is_undone_when_the_block_raises_or_writes_itself(family: FamilyOf) -> None:
    model = family("llama").model
    edit, before = random_edit(model), bits(model)
    with pytest.raises(KeyboardInterrupt), edit.applied(model):
        raise KeyboardInterrupt
    assert_same_bits(model, before)
    with edit.applied(model), torch.no_grad():
        model.blocks[1].mlp.W_out.fill_(float("nan"))
    assert_same_bits(model, before)


@hypothesis.given(
    order=st.lists(st.integers(0, 3), min_size=1, max_size=5), raises_behind=st.integers(0, 5)
)
@hypothesis.settings(max_examples=20)
def test_edits_nest_in_any_order_and_are_undone_wherever_it_raises(
    family: FamilyOf, order: list[int], raises_behind: int
) -> None:
    model = family("gpt2").model
    edits = [random_edit(model, seed) for seed in range(4)]
    before = bits(model)
    with contextlib.suppress(ZeroDivisionError), contextlib.ExitStack() as stack:
        inner = []
        for depth, index in enumerate(order):
            if depth == raises_behind:
                raise ZeroDivisionError
            inner.append(bits(model))
            stack.enter_context(edits[index].applied(model))
            assert not torch.equal(bits(model)[W_OUT][0], inner[-1][W_OUT][0])
        # the last edit alone is undone to what the others made, not to the bare model
        with edits[order[-1]].applied(model):
            within = bits(model)
            with edits[order[0]].applied(model):
                assert not torch.equal(bits(model)[W_O][0], within[W_O][0])
            assert_same_bits(model, within)
    assert_same_bits(model, before)


def test_an_edit_leaves_no_gradient_behind_and_values_on_the_way_stay_differentiable(
    family: FamilyOf,
) -> None:
    model = family("llama").model
    with random_edit(model).applied(model):
        resid = torch.randn(1, 3, 32, requires_grad=True)
        model(resid, start_at_layer=0).sum().backward()
        assert resid.grad is not None and resid.grad.abs().max() > 0
    assert not any(weight.requires_grad or weight.grad is not None for weight in model.parameters())


def test_an_edit_of_float32_is_applied_to_the_same_model_in_float64_and_bfloat16(
    family: FamilyOf,
) -> None:
    hf = random_module(CONFIGS["llama"]())
    for weight in hf.parameters():  # as if it was published in bfloat16
        weight.data = weight.data.bfloat16().float()
    with quiet():
        models = [
            prepare(hugging_face.hooked(hf, dtype), toy_module.tokenizer())
            for dtype in (torch.float32, torch.float64, torch.bfloat16)
        ]
    edit = random_edit(models[0])
    assert isinstance(factors := edit.deltas[W_OUT], LowRank)
    for model in models:
        weight, delta = model.blocks[1].mlp.W_out, factors.left @ factors.right
        before = weight.clone()
        with edit.applied(model):
            torch.testing.assert_close(
                weight, (before.double() + delta.double()).to(weight.dtype), atol=1e-5, rtol=1e-2
            )
        assert torch.equal(weight, before)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_combined_edits_are_the_edits_one_inside_the_other(family: FamilyOf, name: str) -> None:
    model = family(name).model
    edits = [random_edit(model, seed) for seed in range(3)]
    weights = dict(model.named_parameters())
    full = torch.full(weights[W_O].shape, 0.05)
    edits[2] = with_deltas(edits[2], W_O=full)  # low rank + full
    edits.append(with_deltas(edits[0], W_O=low_rank(weights[W_O], 7)))  # full + low rank
    whole = combined(edits)
    with contextlib.ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.applied(model))
        nested = {name: weight.clone() for name, weight in weights.items()}
    with whole.applied(model):
        for parameter, weight in weights.items():
            torch.testing.assert_close(weight, nested[parameter], atol=2e-6, rtol=1e-5)
    kept = whole.deltas[W_OUT]
    assert isinstance(kept, LowRank) and kept.left.shape[1] == 4  # two of the four, rank 2 each
    assert isinstance(whole.deltas[W_O], Tensor)


def test_a_combined_edit_remembers_what_each_was_made_by(family: FamilyOf) -> None:
    model = family("gpt2").model
    one, two, three = (random_edit(model, seed) for seed in range(3))
    whole = combined([combined([one, two]), three, one])
    assert whole.made.editor == "random 0 + random 1 + random 2"
    assert whole.made.parts == (one.made, two.made, three.made, one.made)
    assert whole.made.requests == (described(REQUEST),) * 4
    assert whole.made.fingerprint == fingerprint(model)


def test_nothing_and_edits_for_different_models_are_not_combined(family: FamilyOf) -> None:
    with pytest.raises(InputError, match="no edits to combine"):
        combined([])
    edits = [random_edit(family(name).model) for name in ("gpt2", "llama")]
    with pytest.raises(InputError, match="edits for different models cannot be combined"):
        combined(edits)


def test_edits_made_one_by_one_each_see_those_before(family: FamilyOf) -> None:
    model = family("gpt2").model
    before = bits(model)
    seen: list[float] = []

    def make(request: EditRequest) -> Edit:
        seen.append(float(model.blocks[1].mlp.W_out[0, 0]))
        return random_edit(model, len(seen))

    whole = edit_in_turn(model, [REQUEST] * 3, make)
    assert len(set(seen)) == 3
    assert len(whole.made.parts) == 3
    assert_same_bits(model, before)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_norms_are_those_of_the_full_deltas(family: FamilyOf, name: str) -> None:
    model = family(name).model
    edit = random_edit(model)
    found = edit.norms(model)
    assert list(found) == list(edit.deltas)
    for parameter, weight in edit.weights(model).items():
        delta = edit.deltas[parameter]
        full = delta.left @ delta.right if isinstance(delta, LowRank) else delta
        assert found[parameter].delta == pytest.approx(float(full.norm()), rel=1e-5)
        assert found[parameter].relative == pytest.approx(
            float(full.norm() / weight.norm()), rel=1e-5
        )


def test_factors_that_cancel_have_no_norm(family: FamilyOf) -> None:
    model = family("gpt2").model
    one = low_rank(model.blocks[1].mlp.W_out)
    edit = random_edit(model)
    back = LowRank(-one.left, one.right)
    whole = combined([with_deltas(edit, W_out=one), with_deltas(edit, W_out=back)])
    assert whole.norms(model)[W_OUT].delta < 1e-6
    assert with_deltas(edit, W_out=one).norms(model)[W_OUT].delta > 1


def test_an_edit_that_changes_nothing_says_so(
    family: FamilyOf, caplog: pytest.LogCaptureFixture
) -> None:
    model = family("gpt2").model
    weight, edit = model.blocks[1].mlp.W_out, random_edit(model)
    lost = with_deltas(edit, W_out=weight.detach() * 1e-9)  # below half a unit in the last place
    with caplog.at_level(logging.WARNING, "kedit"):
        assert lost.n_moved(model) == {W_OUT: 0}
    assert caplog.messages == ["The edit of random 0 changes no weight of this model"]
    caplog.clear()
    single = torch.zeros(weight.shape)
    single[3, 4] = 0.5
    with caplog.at_level(logging.WARNING, "kedit"):
        assert with_deltas(edit, W_out=single).n_moved(model) == {W_OUT: 1}
    assert not caplog.messages


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_an_edit_is_refused_by_another_model_of_the_same_shape(family: FamilyOf, name: str) -> None:
    edit, other = random_edit(family(name).model), another_model(name, 1)
    before = bits(other)
    with (
        pytest.raises(InputError, match="this edit was made for another model: for a model with"),
        edit.applied(other),
    ):
        pytest.fail("the block must not run")
    assert_same_bits(other, before)


BROKEN: dict[str, tuple[Callable[[Tensor], dict[str, Delta]], str]] = {
    "unknown parameter": (
        lambda weight: {"blocks.9.mlp.W_out": weight},
        "the model has no blocks.9.mlp.W_out",
    ),
    "other shape": (
        lambda weight: {W_OUT: weight[:5]},
        r"the delta of .*W_out has shape \(5, 32\)",
    ),
    "transposed factors": (
        lambda weight: {W_OUT: LowRank(torch.ones(32, 1), torch.ones(1, 128))},
        r"has shape \(32, 1\) @ \(1, 128\), but the parameter has \(128, 32\)",
    ),
    "factors of a bias": (
        lambda weight: {"blocks.1.mlp.b_out": LowRank(torch.ones(1, 1), torch.ones(1, 32))},
        r"the parameter has \(32,\)",
    ),
    "NaN": (
        lambda weight: {W_OUT: torch.full(weight.shape, float("nan"))},
        "blocks.1.mlp.W_out is no longer finite",
    ),
    "infinite product": (
        lambda weight: {
            W_O: low_rank(torch.ones(32, 32)),
            W_OUT: LowRank(torch.full((128, 1), 1e30), torch.full((1, 32), 1e30)),
        },
        "blocks.1.mlp.W_out is no longer finite",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_delta_that_cannot_be_added_is_refused_and_the_model_left_alone(
    family: FamilyOf, case: str
) -> None:
    model = family("gpt2").model
    deltas, message = BROKEN[case]
    edit = Edit(deltas(model.blocks[1].mlp.W_out.detach()), made_by("x", {}, [], model))
    before = bits(model)
    with pytest.raises(InputError, match=message), edit.applied(model):
        pytest.fail("the block must not run")
    assert_same_bits(model, before)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fingerprint_stays_under_edits_and_tells_models_of_one_family_apart(
    family: FamilyOf, name: str
) -> None:
    model = family(name).model
    own = fingerprint(model)
    with random_edit(model).applied(model):
        assert fingerprint(model) == own
    assert fingerprint(another_model(name, 1)) != own


@pytest.mark.parametrize(
    "name", ["embed.W_E", "blocks.1.mlp.W_in", "blocks.3.mlp.b_out", "unembed.W_U"]
)
def test_models_that_differ_in_one_number_are_told_apart(family: FamilyOf, name: str) -> None:
    model = family("gpt2").model
    edit, other = random_edit(model), copy.deepcopy(model)
    assert fingerprint(other) == fingerprint(model)
    with torch.no_grad():
        weight = other.get_parameter(name)
        weight[(-1,) * weight.ndim] += 1e-3
    assert fingerprint(other) != fingerprint(model)
    with pytest.raises(InputError, match="made for another model"), edit.applied(other):
        pytest.fail("the block must not run")


def test_a_fingerprint_sees_weights_that_are_changed_in_any_way(family: FamilyOf) -> None:
    model = copy.deepcopy(family("gpt2").model)
    weight, seen = model.blocks[2].mlp.W_in, [fingerprint(model)]
    with torch.no_grad():
        weight[3, 4] += 1  # in place
    seen.append(fingerprint(model))
    weight.data = weight.data.clone().mul_(2)  # other memory
    seen.append(fingerprint(model))
    weight.data.mul_(2)  # the same memory, and torch does not count it
    seen.append(fingerprint(model))
    assert len(set(seen)) == 4
    weight.data.div_(2)
    assert fingerprint(model) == seen[2]


def test_edits_are_applied_and_undone_without_reading_all_weights_again(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(family("gpt2").model)
    read: list[int] = []
    of_tensor = digests.of_tensor
    monkeypatch.setattr(
        digests, "of_tensor", lambda one, *order: read.append(one.numel()) or of_tensor(one, *order)
    )
    own, edit = fingerprint(model), random_edit(model)
    assert sum(read) == sum(one.numel() for one in model.parameters())  # the control
    read.clear()
    for _ in range(3):
        with edit.applied(model), edit.applied(model):
            assert fingerprint(model) == own
        assert fingerprint(model) == own
    assert not read


def test_the_current_fingerprint_sees_the_edits_that_are_applied(family: FamilyOf) -> None:
    model = copy.deepcopy(family("gpt2").model)
    edit = random_edit(model)
    assert current_fingerprint(model) == fingerprint(model)
    with edit.applied(model):
        once = current_fingerprint(model)
        with edit.applied(model):
            assert len({current_fingerprint(model), once, fingerprint(model)}) == 3
        assert current_fingerprint(model) == once
    assert current_fingerprint(model) == fingerprint(model)


def test_embeddings_can_be_edited_and_weights_in_the_same_memory_count_as_unedited(
    family: FamilyOf,
) -> None:
    model = copy.deepcopy(family("gpt2").model)
    model.unembed.W_U.data = model.embed.W_E.data.T  # tied
    own, before = fingerprint(model), bits(model)
    both: dict[str, Delta] = {
        "unembed.W_U": torch.full((32, 1000), 0.5),
        "embed.W_E": torch.ones(1000, 32),
    }
    with Edit(both, made_by("x", {}, [], model)).applied(model):
        assert fingerprint(model) == own
        assert not torch.equal(bits(model)["unembed.W_U"][0], before["unembed.W_U"][0])
    assert_same_bits(model, before)
    assert fingerprint(model) == own


def test_an_edit_that_is_being_undone_is_undone_whole_when_interrupted(
    family: FamilyOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family("gpt2").model
    before, own = bits(model), fingerprint(model)
    copies = []
    copy = torch.Tensor.copy_

    def interrupted(self: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        copies.append(self.shape)
        if len(copies) == 2:  # the first weight is copied
            raise KeyboardInterrupt
        return copy(self, source)

    edit = random_edit(model)
    block = edit.applied(model)
    block.__enter__()
    monkeypatch.setattr(torch.Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        block.__exit__(None, None, None)
    monkeypatch.undo()
    assert len(copies) >= 2 + len(edit.deltas)
    assert_same_bits(model, before)
    assert fingerprint(model) == own
    with edit.applied(model):
        assert not torch.equal(bits(model)[W_OUT][0], before[W_OUT][0])
    assert_same_bits(model, before)


@pytest.mark.parametrize("raises", [False, True])
def test_blocks_that_do_not_nest_are_refused_and_leave_the_unedited_model(
    family: FamilyOf, raises: bool
) -> None:
    model = family("gpt2").model
    before, own = bits(model), fingerprint(model)
    edits = [random_edit(model, seed) for seed in range(3)]
    outer, one, other = (edit.applied(model) for edit in edits)
    for block in (outer, one, other):
        block.__enter__()
    if raises:  # then that is the news, and the model is as it was all the same
        assert not one.__exit__(KeyError, KeyError(), None)
    else:
        with pytest.raises(InputError, match="block ended before a block inside it"):
            one.__exit__(None, None, None)
    assert_same_bits(model, before)
    for left in (other, outer):
        with pytest.raises(InputError, match="undone before its block ended"):
            left.__exit__(None, None, None)
        assert_same_bits(model, before)
    assert fingerprint(model) == own
    with edits[0].applied(model):
        assert not torch.equal(bits(model)[W_OUT][0], before[W_OUT][0])
    assert_same_bits(model, before)


def test_a_second_thread_is_refused_and_the_model_ends_as_it_was(family: FamilyOf) -> None:
    model = family("gpt2").model
    before, own = bits(model), fingerprint(model)
    edits = [random_edit(model, seed) for seed in range(2)]
    done: list[str] = []

    def work(edit: Edit) -> None:
        for _ in range(100):
            try:
                with edit.applied(model):
                    done.append("applied")
            except InputError as error:
                done.append(str(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(edit,)) for edit in edits]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert_same_bits(model, before)
    assert fingerprint(model) == own
    refused = {one for one in done if one != "applied"}
    assert len(done) == 200 and "applied" in done
    assert all("another thread has an edit applied to this model" in one for one in refused)


def test_a_thread_is_refused_while_another_ones_block_runs(family: FamilyOf) -> None:
    model = family("gpt2").model
    edit, before, heard = random_edit(model), bits(model), []

    def try_it() -> None:
        try:
            with edit.applied(model):
                heard.append("applied")
        except InputError as error:
            heard.append(str(error))

    with edit.applied(model):
        within = bits(model)
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        assert_same_bits(model, within)
    assert_same_bits(model, before)
    assert len(heard) == 1 and "a model belongs to one thread at a time" in heard[0]
    thread = threading.Thread(target=try_it)  # the control: afterwards it may
    thread.start()
    thread.join()
    assert heard[1] == "applied"
    assert_same_bits(model, before)


def test_a_copy_of_an_edited_model_is_a_model_of_its_own(family: FamilyOf) -> None:
    model = family("gpt2").model
    before, edit = bits(model), random_edit(model)
    with edit.applied(model):
        copied = copy.deepcopy(model)
        edited = bits(copied)
        assert fingerprint(copied) != fingerprint(model)
        with random_edit(copied, 1).applied(copied):
            assert not torch.equal(bits(copied)[W_OUT][0], edited[W_OUT][0])
        assert_same_bits(copied, edited)
    assert_same_bits(model, before)
    assert_same_bits(copied, edited)
    assert not torch.equal(edited[W_OUT][0], before[W_OUT][0])


def test_a_fingerprint_is_of_values_not_of_their_order_in_memory_or_their_dtype() -> None:
    with quiet():
        hf = random_module(CONFIGS["llama"]())
        bare = hugging_face.hooked(hf, torch.float32)
        double = hugging_face.hooked(hf, torch.float64)
        rounded = hugging_face.hooked(hf, torch.bfloat16)
    own = fingerprint(bare)
    assert fingerprint(double) == own
    assert fingerprint(rounded) != own
    assert fingerprint(prepare(bare, toy_module.tokenizer())) == own


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_saved_edit_is_loaded_to_the_bit(family: FamilyOf, name: str, tmp_path: Path) -> None:
    model = family(name).model
    edit = combined([random_edit(model, seed) for seed in range(2)])
    shared = torch.randn(128, 64)  # slices of one storage, one of them twice, in several dtypes
    extra: dict[str, Delta] = {
        "blocks.0.mlp.W_out": LowRank(shared[:, :2].double(), shared[:2, 2:34].double()),
        "blocks.0.attn.W_K": shared[:, :32].bfloat16().T,
        "blocks.0.attn.W_V": shared[:, 32:],
        "blocks.0.mlp.b_out": shared[0],
        "blocks.0.attn.b_O": shared[0],
    }
    edit = dataclasses.replace(edit, deltas={**edit.deltas, **extra})
    path = edit.save(tmp_path / "new" / "edit.safetensors")
    again = Edit.load(path)
    assert again.made == edit.made
    assert set(again.deltas) == set(edit.deltas)
    for parameter, delta in edit.deltas.items():
        other = again.deltas[parameter]
        assert type(delta) is type(other)
        pairs = (
            [(delta.left, other.left), (delta.right, other.right)]
            if isinstance(delta, LowRank) and isinstance(other, LowRank)
            else [(delta, other)]
        )
        for one, two in pairs:
            assert isinstance(one, Tensor) and isinstance(two, Tensor)
            assert one.dtype == two.dtype and torch.equal(one, two)
    assert list((tmp_path / "new").iterdir()) == [path]  # no scratch is left


def test_a_loaded_edit_does_what_the_saved_one_did(family: FamilyOf, tmp_path: Path) -> None:
    model = family("gpt2").model
    edit = random_edit(model)
    with edit.applied(model):
        edited = bits(model)
    with Edit.load(edit.save(tmp_path / "edit.safetensors")).applied(model):
        assert_same_bits(model, edited)


def test_a_save_that_fails_leaves_the_old_file_as_it_was(family: FamilyOf, tmp_path: Path) -> None:
    edit = random_edit(family("gpt2").model)
    path = edit.save(tmp_path / "edit.safetensors")
    before = path.read_bytes()
    made = dataclasses.replace(edit.made, settings={"no JSON": object()})
    with pytest.raises(TypeError):
        dataclasses.replace(edit, made=made).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def rewritten(path: Path, metadata: dict[str, str], **tensors: Tensor) -> None:
    """With a checksum that is right."""
    kept.write(path, {**load_file(path), **tensors}, metadata)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """W_out's factors under W_O's names and the other way round."""
    twins = {W_OUT: W_O, W_O: W_OUT}
    names = {name: name.partition("|") for name in tensors}
    return {
        f"{twins.get(own, own)}|{part}": tensors[name] for name, (own, _, part) in names.items()
    }


MADE = json.dumps(Provenance("x", {}, (), "0", "").to_record())
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "cannot be read as a saved edit: No such file"),
    "truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        "cannot be read as a saved edit: ",
    ),
    "truncated in its header": (
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        "cannot be read as a saved edit: ",
    ),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a saved edit: "),
    "text": (lambda path: path.write_text("an edit"), "cannot be read as a saved edit: "),
    "a folder": (
        lambda path: (path.unlink(), path.mkdir()),
        "cannot be read as a saved edit: ",
    ),
    "another safetensors file": (
        lambda path: save_file({"weight": torch.ones(2)}, path),
        "is a safetensors file, but not an edit that kedit saved",
    ),
    "of the future": (
        lambda path: rewritten(path, {"kedit_edit": "3", "made": MADE}),
        "has format 3, but this kedit reads format 2: update kedit",
    ),
    "of an earlier kedit": (
        lambda path: save_file(load_file(path), path, {"kedit_edit": "1", "made": MADE}),
        "was saved by an earlier kedit, .*: make the edit again",
    ),
    "without its checksum": (
        lambda path: save_file(load_file(path), path, {"kedit_edit": "2", "made": MADE}),
        "is damaged, its checksum is wrong",
    ),
    "of other numbers": (
        lambda path: save_file(
            {name: one + 0.001 for name, one in load_file(path).items()}, path, metadata_of(path)
        ),
        "is damaged, its checksum is wrong: use another copy",
    ),
    "of another provenance": (
        lambda path: save_file(load_file(path), path, metadata_of(path) | {"made": MADE}),
        "is damaged, its checksum is wrong",
    ),
    "of swapped tensors": (
        lambda path: save_file(swapped(load_file(path)), path, metadata_of(path)),
        "is damaged, its checksum is wrong",
    ),
    "without provenance": (
        lambda path: rewritten(path, {"kedit_edit": "2"}),
        "is a broken edit: KeyError",
    ),
    "no JSON": (
        lambda path: rewritten(path, {"kedit_edit": "2", "made": "{"}),
        "is a broken edit: JSONDecodeError",
    ),
    "another field": (
        lambda path: rewritten(path, {"kedit_edit": "2", "made": MADE[:-1] + ', "new": 1}'}),
        "is a broken edit: TypeError",
    ),
    "half a product": (
        lambda path: rewritten(
            path, {"kedit_edit": "2", "made": MADE}, **{"W|right": torch.ones(1, 2)}
        ),
        r"is a broken edit: .*unexpected tensor 'W\|right'",
    ),
    "the other half": (
        lambda path: rewritten(
            path, {"kedit_edit": "2", "made": MADE}, **{"W|left": torch.ones(1, 2)}
        ),
        r"is a broken edit: KeyError\('W\|right'\)",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_edit_is_refused(family: FamilyOf, tmp_path: Path, case: str) -> None:
    path = random_edit(family("gpt2").model).save(tmp_path / "edit.safetensors")
    Edit.load(path)
    harm, message = FILES[case]
    harm(path)
    with pytest.raises(InputError, match=f"{re.escape(str(path))} {message}"):
        Edit.load(path)


def test_any_flipped_bit_of_a_saved_edit_is_noticed(toy: HookedTransformer, tmp_path: Path) -> None:
    path = tmp_path / "edit.safetensors"
    deltas: dict[str, Delta] = {"blocks.1.mlp.b_out": torch.linspace(-1, 1, 64)}
    whole = Edit(deltas, made_by("x", {}, [], toy)).save(path).read_bytes()
    assert set(Edit.load(path).deltas) == set(deltas)  # the control
    # a blank that pads the header may change and mean the same
    blanks = whole[: 8 + int.from_bytes(whole[:8], "little")]
    padding = range(len(blanks.rstrip(b" ")), len(blanks))
    for place in range(len(whole)):
        if place in padding:
            continue
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            Edit.load(path)


def test_others_may_read_a_saved_edit(family: FamilyOf, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    path = random_edit(family("gpt2").model).save(tmp_path / "edit.safetensors")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_request_is_told_in_plain_words() -> None:
    removal = Fact("Ada", Relation("P103", "language"), "language", "What links {} to Danish is")
    request = EditRequest(
        Fact("Ada", Relation("P103", "language"), "None", "What links {} to Greek is"),
        "language",
        "relation",
        mentioned="Greek",
        removal=removal,
        mentioned_by_removal="Danish",
    )
    assert described(request) == {
        "perspective": "relation",
        "prompt": "What links Ada to Greek is",
        "subject": "Ada",
        "object": "None",
        "target": "language",
        "relation_id": "P103",
        "relation": "language",
        "mentioned": "Greek",
        "removal_prompt": "What links Ada to Danish is",
        "removal_object": "language",
        "mentioned_by_removal": "Danish",
    }
    assert described(REQUEST)["removal_prompt"] == described(REQUEST)["mentioned"] == ""
