"""Exports an edited model as a Hugging Face checkpoint, which other programs can load.

No table of parameter names is needed: the counterpart of a TransformerLens weight is found as the
one tensor of the Hugging Face model that has the same numbers.
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
    folder, source = Path(folder), source or edit.made.source
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} already exists: name a new folder for the checkpoint")
    if not source:
        raise InputError(
            "it is not known where the edited model came from: give its source, as in "
            "export(edit, folder, source)"
        )
    model, hf, tokenizer = both_forms(source)
    # all counterparts first: they are found by the unedited numbers
    weights = {name: _counterpart(hf, name, weight) for name, weight in edit.weights(model).items()}
    for name, weight in weights.items():
        add(name, edit.deltas[name], weight)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch, quiet():
        made = Path(scratch, "made")
        hf.save_pretrained(made)
        tokenizer.save_pretrained(made)
        record = json.dumps(edit.made.to_record(), indent=1, ensure_ascii=False)
        (made / MADE).write_text(record, encoding="utf-8")
        reread = read_folder(made)[0].state_dict()
        for name, value in hf.state_dict().items():
            if name not in reread or not torch.equal(reread[name], value):
                raise InputError(
                    f"{source} cannot be exported: transformers reads {name} back with other "
                    "numbers than it wrote"
                )
        made.rename(folder)
    return folder


def _counterpart(hf: PreTrainedModel, name: str, weight: Tensor) -> Tensor:
    """Returns a view, shaped like `weight`, of the one tensor of `hf` that has the same numbers."""
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
    if heads:
        return rearrange(found[0][1], "d_model (head d_head) -> head d_model d_head", head=heads)
    return found[0][1].view(weight.shape)
