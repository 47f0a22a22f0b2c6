"""A MEND for the toy, which is trained in seconds when it is first asked for, and then kept."""

import hashlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from experiments.train_mend import Config

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.editing.edit import Editor

# few steps, and therefore large ones
RECIPE = Config(
    model="toy", cases="toy", rank=16, rate=3e-3, lr=1e-2, lr_rate=1e-4, edit_weight=0.3, steps=60,
    validate=30, held_out=32,
)  # fmt: skip


def trained_for_toy(chosen: "Editor", model: "HookedTransformer", name: str) -> "Editor":
    """The editor as it is; but a MEND of the toy that was told no file gets the one in the cache.

    Args:
        name: by which the model was loaded.

    Raises:
        InputError: the cache cannot be written, or another process trains the same one now.
    """
    from kedit.editors.mend import MEND
    from kedit.editors.sides import with_each

    def told(one: "Editor") -> "Editor":
        if name != "toy" or not isinstance(one, MEND) or one.file:
            return one
        return replace(one, file=_file(model))

    return with_each(chosen, told)


def _file(model: "HookedTransformer") -> str:
    """The trained file, in a folder of the cache that is named after recipe and weights."""
    from experiments._exercises import practice_of, requests_for
    from experiments._mend_training import train
    from experiments._run import open_run
    from kedit.editing.provenance import fingerprint
    from kedit.editors.mend import NAME
    from kedit.models.hugging_face import cache_dir

    told = json.dumps([asdict(RECIPE), fingerprint(model)])
    key = hashlib.sha256(told.encode()).hexdigest()[:16]
    config = replace(RECIPE, out=str(cache_dir() / "mend" / f"toy-{key}"))
    with open_run("train_mend", config) as folder:
        folder.require_weights(model)
        if str(config.steps) not in folder.records:
            train(config, folder, model, practice_of(config, model, requests_for(config)))
        return str(folder.path / NAME)
