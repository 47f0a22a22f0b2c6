"""What an edit was made by, from and for; it travels with the edit."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_lens import HookedTransformer

from kedit.editing.weights import weight_digests
from kedit.errors import InputError
from kedit.facts import EditRequest
from kedit.models.load import source_of

ARCHITECTURE = (
    "original_architecture", "n_layers", "d_model", "n_heads", "n_key_value_heads", "d_head",
    "d_mlp", "d_vocab", "act_fn", "normalization_type", "positional_embedding_type",
    "parallel_attn_mlp", "gated_mlp",
)  # fmt: skip


@dataclass(frozen=True)
class Provenance:
    """What an edit was made by, from and for; plain values only, as JSON has them.

    Args:
        editor: its name.
        settings: the editor's; empty for a combined edit.
        requests: what was asked for, as `described` tells it.
        fingerprint: of the model the edit was made for.
        source: the name that model was loaded by, "" if it does not come from `load`.
        parts: of a combined edit, what each of its edits was made by, in order.
    """

    editor: str
    settings: Mapping[str, Any]
    requests: tuple[Mapping[str, str], ...]
    fingerprint: str
    source: str = ""
    parts: tuple["Provenance", ...] = ()

    def to_record(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Provenance":
        """The inverse of `to_record`."""
        parts = tuple(cls.from_record(part) for part in record["parts"])
        return cls(**{**record, "requests": tuple(record["requests"]), "parts": parts})


def made_by(
    editor: str,
    settings: Mapping[str, Any],
    requests: Sequence[EditRequest],
    model: HookedTransformer,
) -> Provenance:
    """The provenance of an edit that `editor` makes for `model`."""
    try:
        source = source_of(model)
    except InputError:
        source = ""  # such an edit can be applied and saved; only its export needs to be told
    return Provenance(editor, settings, tuple(map(described, requests)), fingerprint(model), source)


def described(request: EditRequest) -> dict[str, str]:
    """A request in plain words, for an edit's provenance; "" for what it does not have."""
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


def fingerprint(model: HookedTransformer) -> str:
    """What tells models apart and is the same before, during and after an edit: a SHA-256.

    Of the architecture and of all weights without the edits that are applied, exactly, as float32.
    So a model in float64 is the same one; in bfloat16 it is, if it was published so, and another
    one, if its weights were rounded. After the first time it takes milliseconds.
    """
    fields = {field: getattr(model.cfg, field) for field in ARCHITECTURE}
    told = json.dumps([fields, sorted(weight_digests(model).items())])
    return hashlib.sha256(told.encode()).hexdigest()
