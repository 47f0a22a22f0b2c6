"""Prepares ROME and Joint for masked models (BERT, T5), and refuses settings they do not have."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from kedit.editing.edit import Edit, PreparedEditor
from kedit.editing.masked_inserts import masked_edit, masked_moment, masked_sites
from kedit.editing.provenance import made_by
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.masked import Masked
from kedit.models.sites import Half

# settings that cannot be used, unless they have their default value
UNUSED = {
    "rome": ("key", "relation", "moments"),
    "joint": ("heads", "wordings", "neighbours", "questions", "forget", "moments"),
}


def on_masked(
    name: str,
    editor: Any,
    model: Masked,
    layers: Sequence[int],
    halves: Sequence[Half],
    weight: float | None,
) -> PreparedEditor:
    """Prepares an editor for BERT or T5: measures C at each of its sites.

    Args:
        name: "rome" or "joint".
        editor: the editor, with its settings.
        layers, halves, weight: see `masked_inserts.masked_sites` and `masked_edit`.

    Raises:
        InputError: a setting cannot be used in a masked model, or a layer does not exist.
    """
    if editor.where != "last":
        raise InputError(
            f"{name}:where={editor.where}: BERT and T5 are edited where the answer is read, at the "
            "mask or at the decoder's last token: use where=last"
        )
    unusual = [
        field.name
        for field in dataclasses.fields(editor)
        if field.name in UNUSED[name] and getattr(editor, field.name) != field.default
    ]
    if set(editor.contexts) - {""}:
        unusual.append("contexts")
    if editor.training.attention_kl:
        unusual.append("training.attention_kl")
    if unusual:
        raise InputError(f"{name}: BERT and T5 cannot be edited with {', '.join(unusual)}")
    sites = masked_sites(model, layers, halves)
    solves = [
        masked_moment(model, site, editor.text, editor.n_tokens, editor.seed) for site in sites
    ]
    settings = dataclasses.asdict(editor)

    def edit(requests: Sequence[EditRequest]) -> Edit:
        made = made_by(name, settings, requests, model)
        return masked_edit(model, requests, sites, editor.training, solves, made, weight)

    return edit
