"""Exports an edit for other programs: as a Hugging Face checkpoint, or as a LoRA adapter of PEFT.

No table of parameter names is needed: the counterpart of a TransformerLens weight is found as the
one tensor of the Hugging Face model that has the same numbers.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kedit.editing.deltas import LowRank, add
from kedit.editing.edit import Edit
from kedit.editing.write_sites import flat
from kedit.errors import InputError
from kedit.models.load import both_forms, quiet, read_any
from kedit.models.masked import require_decoder

MADE = "kedit_edit.json"  # file of the edit's provenance in the checkpoint's folder


@torch.no_grad()
def export(edit: Edit, folder: str | Path, source: str = "") -> Path:
    """Writes the model `source` with `edit` applied to a new folder, in float32.

    The folder is written completely or not at all.

    Args:
        folder: receives the checkpoint (safetensors), the tokenizer and the edit's provenance; it
            must not exist yet, or be empty.
        source: the model that the edit was made for, as for `kedit.models.load.load`; "": the
            source in the edit's provenance.

    Raises:
        InputError: the source cannot be loaded or is another model, it has no Hugging Face form, an
            edited weight does not have exactly one counterpart there, transformers reads back
            something other than what it wrote, or the folder is in use.
    """
    source = source or edit.made.source
    with _new(folder, edit, source) as made, quiet():
        model, hf, tokenizer = both_forms(source)
        # all counterparts first: they are found by the unedited numbers
        weights = edit.weights(model).items()
        counterparts = {name: _counterpart(hf, name, weight).view for name, weight in weights}
        for name, weight in counterparts.items():
            add(name, edit.deltas[name], weight)
        hf.save_pretrained(made)
        tokenizer.save_pretrained(made)
        reread = read_any(made)[0].state_dict()
        for name, value in hf.state_dict().items():
            if name not in reread or not torch.equal(reread[name], value):
                raise InputError(
                    f"{source} cannot be exported: transformers reads {name} back with other "
                    "numbers than it wrote"
                )
    return Path(folder)


@torch.no_grad()
def export_adapter(edit: Edit, folder: str | Path, source: str = "") -> Path:
    """Writes `edit` to a new folder as a LoRA adapter, which PEFT loads onto the unedited model.

    An adapter holds deltas of low rank only: those of `rome`, `memit` and `joint`. PEFT's delta of
    a matrix is B A, with the rank r as its scale: B is `right`ᵀ, and A is `left`ᵀ.

        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source), folder)

    Args:
        folder, source: as for `export`.

    Raises:
        InputError: as for `export`, a delta is not of low rank, or the model is BERT or T5.
    """
    source = source or edit.made.source
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    is_conv = False
    with _new(folder, edit, source) as made:
        model, hf, _ = both_forms(source)
        require_decoder(model, "a LoRA adapter")
        for name, weight in edit.weights(model).items():
            delta = edit.deltas[name]
            if not isinstance(delta, LowRank):
                raise InputError(
                    f"the delta of {name} is not of low rank, so that no adapter can hold it: "
                    "export(edit, folder) writes a checkpoint"
                )
            module = _counterpart(hf, name, weight).name.removesuffix(".weight")
            is_conv = isinstance(hf.get_submodule(module), Conv1D)
            ranks[module] = delta.left.shape[1]
            for part, matrix in (("A", delta.left.T), ("B", delta.right.T)):
                key = f"base_model.model.{module}.lora_{part}.weight"
                tensors[key] = matrix.float().cpu().contiguous()
        largest = max(ranks.values())
        config: dict[str, Any] = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": source,
            "inference_mode": True, "target_modules": list(ranks), "fan_in_fan_out": is_conv,
            "bias": "none", "lora_dropout": 0.0, "r": largest, "lora_alpha": largest,
            # the scale is alpha / r, so that it is 1 for each
            "rank_pattern": ranks, "alpha_pattern": ranks,
        }  # fmt: skip
        (made / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        save_file(tensors, made / "adapter_model.safetensors")
    return Path(folder)


@contextlib.contextmanager
def _new(folder: str | Path, edit: Edit, source: str) -> Iterator[Path]:
    """Yields a scratch folder, which becomes `folder` with the edit's provenance at the end.

    Raises:
        InputError: the folder is in use, or the source is unknown.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists: name a new folder for the export")
    if not source:
        raise InputError(
            "it is not known where the edited model came from: give its source, as in "
            "export(edit, folder, source)"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        yield made
        record = json.dumps(edit.made.to_record(), indent=1, ensure_ascii=False)
        (made / MADE).write_text(record, encoding="utf-8")
        made.rename(folder)


class _Counterpart(NamedTuple):
    """A tensor of a Hugging Face module: its name, and a view in TransformerLens' shape."""

    name: str
    view: Tensor


def _counterpart(hf: PreTrainedModel, name: str, weight: Tensor) -> _Counterpart:
    """Returns the one tensor of `hf` that has the numbers of `weight`."""
    # Heads are concatenated along the output axis of W_V. In the other weights with heads, such as
    # W_O, they are along the first axis, which `flat` merges.
    heads = len(weight) if name.endswith("W_V") else 0
    if heads:
        matrix = rearrange(weight, "head d_model d_head -> d_model (head d_head)")
    else:
        matrix = weight if weight.ndim == 1 else flat(weight)
    found = [
        (hf_name, view)
        # with duplicates: a tied tensor counts as two, because `hf` can't change only one of them
        for hf_name, tensor in hf.named_parameters(remove_duplicate=False)
        for view in ((tensor, tensor.T) if tensor.ndim == 2 else (tensor,))
        if view.shape == matrix.shape and torch.equal(view, matrix)
    ]
    if len(found) != 1:
        held = f"holds it {len(found)} times ({', '.join(hf_name for hf_name, _ in found)})"
        raise InputError(
            f"{name} cannot be exported: {type(hf).__name__} "
            f"{held if found else 'has no tensor with its numbers'}"
        )
    ((hf_name, view),) = found
    if heads:
        view = rearrange(view, "d_model (head d_head) -> head d_model d_head", head=heads)
    return _Counterpart(hf_name, view.view(weight.shape))
