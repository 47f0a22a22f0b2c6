"""Provides a MEND for the toy model: trained in seconds at its first use, then cached."""

from dataclasses import asdict, replace

from transformer_lens import HookedTransformer

from kedit.cache import cache_dir
from kedit.editing.edit import Editor
from kedit.editing.provenance import fingerprint
from kedit.editors.mend import MEND, NAME
from kedit.editors.sides import with_each
from kedit.models import toy
from kedit.records import key_of, to_record
from kedit.run_folder import open_folder
from kedit.studies.mend_practice import practice_of
from kedit.studies.mend_requests import requests_for
from kedit.studies.mend_training import Recipe, train

# few steps, which therefore have to be large
RECIPE = Recipe(
    rank=16, rate=3e-3, lr=1e-2, lr_rate=1e-4, edit_weight=0.3, steps=60, validate_every=30
)  # fmt: skip
HELD_OUT = 32  # number of requests to validate with


def trained_for_toy(chosen: Editor, model: HookedTransformer, name: str) -> Editor:
    """Returns the editor; a MEND for the toy without a file gets the network from the cache.

    The network is trained first if the cache does not have it. Editors of other models, and editors
    that are no MEND, are returned as they are.

    Args:
        chosen: the editor, or an editor for each side.
        name: the name by which the model was loaded.

    Raises:
        InputError: the cache cannot be written, or another process is training the same network.
    """

    def with_file(editor: Editor) -> Editor:
        if name != "toy" or not isinstance(editor, MEND) or editor.file:
            return editor
        return replace(editor, file=_file(model))

    return with_each(chosen, with_file)


def _file(model: HookedTransformer) -> str:
    """Returns the file of the trained network, in a cache folder named after recipe and weights."""
    weights = fingerprint(model)
    path = cache_dir() / "mend" / f"toy-{key_of((key_of(RECIPE), HELD_OUT, weights))}"
    measured = {"model": "toy", "n_validate": HELD_OUT, **to_record(asdict(RECIPE))}
    with open_folder(path, "train_mend", measured, {}, measured) as folder:
        folder.require_weights(weights)
        if str(RECIPE.steps) not in folder.records:
            requests = requests_for(toy.cases(), n_validate=HELD_OUT)
            train(model, practice_of(model, requests), RECIPE, folder, {"cases": "toy"})
        return str(folder.file(NAME))
