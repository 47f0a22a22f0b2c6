"""An exported edit: a checkpoint that transformers loads, with the edited model's logits."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
import transformers

from kedit.editing.edit import Edit, LowRank
from kedit.editing.export import MADE, export, export_adapter
from kedit.editing.factors import LinearMap
from kedit.editing.provenance import made_by
from kedit.errors import InputError
from kedit.models import toy as toy_module
from kedit.models.load import load, source_of
from tests.conftest import CONFIGS, FAMILIES, FamilyOf, random_module
from tests.test_edit import REQUEST, W_O, W_OUT, low_rank, random_edit

TOKENS = torch.tensor([[0, 5, 9, 200, 201, 17]])


def saved(name: str, folder: Path) -> str:
    """A tiny model of a family with the toy's tokenizer, as the folder that `load` reads."""
    random_module(CONFIGS[name]()).save_pretrained(folder)
    toy_module.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_checkpoint_has_the_logits_of_the_edited_model(name: str, tmp_path: Path) -> None:
    source = saved(name, tmp_path / "source")
    model = load(source, device="cpu")
    plain, edit = model(TOKENS), random_edit(model)
    folder = export(edit, tmp_path / "new" / "edited")
    again = transformers.AutoModelForCausalLM.from_pretrained(folder)(TOKENS).logits
    with edit.applied(model):
        torch.testing.assert_close(again, model(TOKENS), atol=1e-4, rtol=0)
    assert (again - plain).abs().max() > 0.1  # a thousand times what is tolerated

    assert {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", MADE}
    assert json.loads((folder / MADE).read_text())["requests"] == [*edit.made.requests]
    words = transformers.AutoTokenizer.from_pretrained(folder)
    assert (
        words("The language of Ada").input_ids
        == toy_module.tokenizer()("The language of Ada").input_ids
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["edited"]  # no scratch is left


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT asks an old name of transformers
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_peft_loads_the_adapter_with_the_logits_of_the_edited_model(
    name: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    source = saved(name, tmp_path / "source")
    model = load(source, device="cpu")
    weights = dict(model.named_parameters())
    deltas = {one: low_rank(weights[one]) for one in (W_OUT, W_O)}
    rank_one = LowRank(deltas[W_O].left[:, :1], deltas[W_O].right[:1])
    edit = Edit(deltas | {W_O: rank_one}, made_by("test", {}, [REQUEST], model))
    folder = export_adapter(edit, tmp_path / "new" / "adapter")
    unedited = transformers.AutoModelForCausalLM.from_pretrained(source)
    plain = unedited(TOKENS).logits
    adapted = peft.PeftModel.from_pretrained(unedited, folder)
    again = adapted(TOKENS).logits
    with edit.applied(model):
        torch.testing.assert_close(again, model(TOKENS), atol=1e-4, rtol=0)
    assert (again - plain).abs().max() > 0.01
    assert json.loads((folder / MADE).read_text())["requests"] == [*edit.made.requests]


def test_a_dense_delta_is_no_adapter(tmp_path: Path) -> None:
    model = load(saved("llama", tmp_path / "source"), device="cpu")
    dense = torch.ones_like(dict(model.named_parameters())[W_OUT])
    edit = Edit({W_OUT: dense}, made_by("test", {}, [REQUEST], model))
    with pytest.raises(InputError, match=f"{W_OUT} is not of low rank"):
        export_adapter(edit, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("name", ["llama", "gptj"])  # grouped heads, and as many as queries have
@torch.no_grad()
def test_values_of_heads_are_exported_too(name: str, tmp_path: Path) -> None:
    model = load(saved(name, tmp_path / "source"), device="cpu")
    site = LinearMap(1, "W_V")
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(width, 2, generator=generator) for width in site.widths(model))
    delta = site.delta(model, left, right.T)
    edit = Edit({site.parameter(model): delta}, made_by("test", {}, [REQUEST], model))
    plain = model(TOKENS)
    again = transformers.AutoModelForCausalLM.from_pretrained(export(edit, tmp_path / "edited"))
    with edit.applied(model):
        torch.testing.assert_close(again(TOKENS).logits, model(TOKENS), atol=1e-4, rtol=0)
    assert (again(TOKENS).logits - plain).abs().max() > 0.1


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_a_checkpoint_can_be_loaded_and_edited_in_turn(name: str, tmp_path: Path) -> None:
    model = load(saved(name, tmp_path / "source"), device="cpu")
    edit = random_edit(model)
    once = load(str(export(edit, tmp_path / "once")), device="cpu")
    with edit.applied(model):
        for (parameter, weight), other in zip(
            model.named_parameters(), once.parameters(), strict=True
        ):
            assert torch.equal(weight, other), parameter  # to the bit, not only in its logits


def test_exporting_touches_neither_the_source_nor_a_loaded_model(tmp_path: Path) -> None:
    source = saved("gpt2", tmp_path / "source")
    files = {path.name: path.read_bytes() for path in Path(source).iterdir()}
    model = load(source, device="cpu")
    before = [weight.clone() for weight in model.parameters()]
    export(random_edit(model), tmp_path / "edited")
    assert {path.name: path.read_bytes() for path in Path(source).iterdir()} == files
    assert all(map(torch.equal, before, model.parameters()))


def test_a_source_that_moved_is_named_anew(tmp_path: Path) -> None:
    old = saved("gpt2", tmp_path / "old")
    model = load(old, device="cpu")
    edit = random_edit(model)
    new = Path(old).rename(tmp_path / "new")
    with pytest.raises(InputError, match="old is not a Hugging Face folder"):
        export(edit, tmp_path / "edited")
    assert export(edit, tmp_path / "edited", str(new)) == tmp_path / "edited"


def test_another_source_is_refused(tmp_path: Path) -> None:
    edit = random_edit(load(saved("gpt2", tmp_path / "one"), device="cpu"))
    other = random_module(CONFIGS["gpt2"]())
    other.get_parameter("transformer.wte.weight").data.mul_(1.5)
    other.save_pretrained(tmp_path / "one")
    with pytest.raises(InputError, match=r"made for another model: for .* with fingerprint"):
        export(edit, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_a_weight_with_two_counterparts_or_none_is_refused(tmp_path: Path) -> None:
    """Layers 1 and 2 have the same W_out; biases that Llama lacks are zeros in kedit's model."""
    hf = random_module(CONFIGS["llama"]())
    one, two = (hf.get_parameter(f"model.layers.{layer}.mlp.down_proj.weight") for layer in (1, 2))
    two.data.copy_(one)
    hf.save_pretrained(tmp_path / "source")
    toy_module.tokenizer().save_pretrained(tmp_path / "source")
    model = load(str(tmp_path / "source"), device="cpu")
    made = made_by("x", {}, [REQUEST], model)
    twice = Edit({W_OUT: low_rank(model.blocks[1].mlp.W_out)}, made)
    with pytest.raises(
        InputError,
        match=r"W_out cannot be exported: LlamaForCausalLM holds it 2 times \(model.layers.1.mlp"
        r".down_proj.weight, model.layers.2.mlp.down_proj.weight\)",
    ):
        export(twice, tmp_path / "edited")
    nowhere = Edit({"blocks.1.mlp.b_out": torch.ones(32)}, made)
    with pytest.raises(InputError, match="b_out cannot be .*: LlamaForCausalLM has no tensor with"):
        export(nowhere, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
    # the control: another matrix of the same model has one
    export(Edit({W_O: low_rank(model.blocks[2].attn.W_O)}, made), tmp_path / "edited")


def test_a_matrix_that_is_tied_to_another_is_refused(tmp_path: Path) -> None:
    model = load(saved("gpt2", tmp_path / "source"), device="cpu")
    edit = Edit({"unembed.W_U": torch.ones(32, 1000)}, made_by("x", {}, [], model))
    with pytest.raises(InputError, match=r"W_U .* 2 times \(transformer.wte.*, lm_head.weight\)"):
        export(edit, tmp_path / "edited")


def test_a_delta_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    model = load(saved("gpt2", tmp_path / "source"), device="cpu")
    edit = random_edit(model)
    deltas = {W_OUT: LowRank(torch.full((128, 1), float("inf")), torch.ones(1, 32))}
    with pytest.raises(InputError, match="W_out is no longer finite"):
        export(dataclasses.replace(edit, deltas=deltas), tmp_path / "edited")
    assert not (tmp_path / "edited").exists()


def test_a_folder_in_use_is_refused_and_an_empty_one_filled(tmp_path: Path) -> None:
    model = load(saved("gpt2", tmp_path / "source"), device="cpu")
    edit = random_edit(model)
    with pytest.raises(InputError, match="source already exists: name a new folder"):
        export(edit, tmp_path / "source")
    (tmp_path / "empty").mkdir()
    assert (export(edit, tmp_path / "empty") / "config.json").exists()


def test_models_that_have_no_source_or_no_hugging_face_form_are_refused(
    family: FamilyOf, tmp_path: Path
) -> None:
    edit = random_edit(family("gpt2").model)
    assert edit.made.source == ""
    with pytest.raises(InputError, match="not known where the edited model came from"):
        export(edit, tmp_path / "edited")
    with pytest.raises(InputError, match="the toy has no Hugging Face form"):
        export(edit, tmp_path / "edited", "toy")


def test_a_loaded_model_knows_its_source_and_so_do_its_copies(
    family: FamilyOf, tmp_path: Path
) -> None:
    source = saved("gpt2", tmp_path / "source")
    model = load(source, device="cpu")
    assert source_of(model) == source
    assert source_of(copy.deepcopy(model)) == source
    with pytest.raises(InputError, match="does not come from kedit.models.load.load"):
        source_of(family("gpt2").model)
