"""What an edit was made with and for: editor, settings, requests and model."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedTransformer

from kedit.editing.weights import applied_digests, lowest_edited, weight_digests
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.load import source_of
from kedit.models.masked import AnyModel

ARCHITECTURE = (
    "original_architecture", "n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head",
    "d_mlp", "d_vocab", "act_fn", "normalization_type", "positional_embedding_type",
    "parallel_attn_mlp", "gated_mlp",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What an edit was made with and for, as plain values for JSON.

    Args:
        editor: name of the editor.
        settings: of the editor; empty for a combined edit.
        requests: the requests, as `described` returns them.
        fingerprint: of the model the edit was made for.
        source: the name this model was loaded with; "" if it was not loaded with `load`.
        parts: for a combined edit, the provenance of each of its edits, in order.
    """

    editor: str
    settings: Mapping[str, Any]
    requests: tuple[Mapping[str, str], ...]
    fingerprint: str
    source: str = ""
    parts: tuple["Provenance", ...] = ()

    def to_record(self) -> dict[str, Any]:
        """Returns the provenance as a dictionary for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Provenance":
        """Rebuilds the provenance from what `to_record` returned."""
        parts = tuple(cls.from_record(part) for part in record["parts"])
        return cls(**{**record, "requests": tuple(record["requests"]), "parts": parts})


def made_by(
    editor: str,
    settings: Mapping[str, Any],
    requests: Sequence[EditRequest],
    model: AnyModel,
) -> Provenance:
    """Returns the provenance of an edit that `editor` makes for `model`."""
    try:
        source = source_of(model)
    except InputError:
        source = ""  # such an edit can be applied and saved; only `export` needs a source
    return Provenance(editor, settings, tuple(map(described, requests)), fingerprint(model), source)


def described(request: EditRequest) -> dict[str, str]:
    """Returns a request as a dictionary of texts; "" for what it doesn't have."""
    fact, removal = request.fact, request.removal
    return {
        "perspective": request.perspective,
        "prompt": fact.prompt,
        "subject": fact.subject,
        "object": fact.object,
        "target": request.target,
        "relation_id": fact.relation.id,
        "relation": fact.relation.name,
        "mentioned": request.mentioned,
        "removal_prompt": removal.prompt if removal else "",
        "removal_object": removal.object if removal else "",
        "mentioned_by_removal": request.mentioned_by_removal,
    }


def current_fingerprint(model: AnyModel) -> str:
    """Returns a SHA-256 of the model as it is now, with the edits that are applied to it.

    Equal to `fingerprint(model)` while no edit is applied. A study gives it to its journal, so that
    an edited model does not get the results of the unedited one.
    """
    unedited, applied = fingerprint(model), applied_digests(model)
    if not applied:
        return unedited
    return hashlib.sha256(json.dumps([unedited, sorted(applied.items())]).encode()).hexdigest()


def fingerprint(model: AnyModel) -> str:
    """Returns a SHA-256 that identifies a model and is the same before, during and after an edit.

    It is computed from the architecture and from all weights, without applied edits, exactly, as
    float32. So a model loaded in float64 has the same fingerprint. In bfloat16 it has the same one
    if it was published in bfloat16, and another one if its weights were rounded. Later calls for
    the same model take milliseconds.
    """
    fields = {field: getattr(model.cfg, field) for field in ARCHITECTURE}
    text = json.dumps([fields, sorted(weight_digests(model).items())])
    return hashlib.sha256(text.encode()).hexdigest()


def unedited_part(model: HookedTransformer) -> tuple[int, str]:
    """Returns the lowest layer that applied edits may have changed, and `fingerprint(model)`.

    Together they say what the layers below compute. `kedit.forward.kept.KeptStates` asks for them.
    """
    return lowest_edited(model), fingerprint(model)
