"""An edited model as a Hugging Face checkpoint, which any other program can load.

Without a table of names: a weight's counterpart is the tensor of the module that has its numbers.
"""

import json
import tempfile
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedModel

from kedit.editing.deltas import add
from kedit.editing.edit import Edit
from kedit.editing.write_sites import flat
from kedit.errors import InputError
from kedit.models.hugging_face import read_folder
from kedit.models.load import both_forms, quiet

MADE = "kedit_edit.json"  # the edit's provenance, beside the weights


@torch.no_grad()
def export(edit: Edit, folder: str | Path, source: str = "") -> Path:
    """Writes the model `source` with `edit`, in float32, whole or not at all.

    Args:
        source: as for kedit.models.load.load: the model that the edit was made for, wherever it is
            now.
        folder: gets the checkpoint (safetensors), the tokenizer and the edit's provenance; it must
            not exist yet, or be empty.

    Raises:
        InputError: the source cannot be had or is another model, it has no Hugging Face form, an
            edited weight has not exactly one counterpart there, transformers does not read back
            what it wrote, or the folder is in use.
    """
    folder, source = Path(folder), source or edit.made.source
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is there already: name a new folder for the checkpoint")
    if not source:
        raise InputError(
            "it is not known where the edited model came from: name its source, "
            "export(edit, folder, source)"
        )
    model, hf, tokenizer = both_forms(source)
    places = {name: _counterpart(hf, name, weight) for name, weight in edit.weights(model).items()}
    for name, place in places.items():
        add(name, edit.deltas[name], place)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, quiet():
        made = Path(scratch, "made")
        hf.save_pretrained(made)
        tokenizer.save_pretrained(made)
        record = json.dumps(edit.made.to_record(), indent=1, ensure_ascii=False)
        (made / MADE).write_text(record, encoding="utf-8")
        again = read_folder(made)[0].state_dict()
        for name, value in hf.state_dict().items():
            if name not in again or not torch.equal(again[name], value):
                raise InputError(f"{source} cannot be exported: {name} is read back changed")
        made.rename(folder)
    return folder


def _counterpart(hf: PreTrainedModel, name: str, weight: Tensor) -> Tensor:
    """A view, shaped as `weight`, of the one tensor of `hf` that has its numbers."""
    heads = len(weight) if name.endswith("W_V") else 0  # what reads stands side by side
    if heads:
        matrix = rearrange(weight, "head d_model d_head -> d_model (head d_head)")
    else:
        matrix = weight if weight.ndim == 1 else flat(weight)
    found = [
        (theirs, view)
        # tied tensors under all their names: `hf` could not change one without the other
        for theirs, tensor in hf.named_parameters(remove_duplicate=False)
        for view in ((tensor, tensor.T) if tensor.ndim == 2 else (tensor,))
        if view.shape == matrix.shape and torch.equal(view, matrix)
    ]
    if len(found) != 1:
        held = f"holds it {len(found)} times ({', '.join(theirs for theirs, _ in found)})"
        raise InputError(
            f"{name} cannot be exported: {type(hf).__name__} "
            f"{held if found else 'has no tensor with its numbers'}"
        )
    if heads:
        return rearrange(found[0][1], "d_model (head d_head) -> head d_model d_head", head=heads)
    return found[0][1].view(weight.shape)
