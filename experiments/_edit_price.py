"""Text that has nothing to do with an edit, to see whether the edit costs it perplexity."""

import hashlib
import json
from typing import TYPE_CHECKING

from experiments._run import console

if TYPE_CHECKING:
    from torch import Tensor
    from transformer_lens import HookedTransformer

    from experiments.edit_fact import Config
    from kedit.edit import Editor

# Enough to tell a tenth of perplexity from nothing, the same tokens being read twice
CHUNKS, WINDOW = 8, 64  # of held-out text, and tokens of each


def perplexity(model: "HookedTransformer", held_out: "Tensor") -> float:
    """Of the text, to the model as it is, edited or not."""
    from kedit.drift import surprise

    return float(surprise(model, held_out).mean().exp())


def held_out_text(model: "HookedTransformer", config: "Config", chosen: "Editor") -> "Tensor":
    """Text that the editor's statistics are not of: a file, or what the model itself says.

    Raises:
        InputError: it cannot be read, is too short, or is the very text of the statistics.
    """
    from kedit.drift import held_out
    from kedit.errors import InputError
    from kedit.spared import Sparing
    from kedit.text import Corpus

    if not config.held_out:
        return _own_text(model, _seed(config, chosen))
    spared = chosen.text if isinstance(chosen, Sparing) else ""
    if spared and Corpus(spared).digest() == Corpus(config.held_out).digest():
        raise InputError(
            f"--held-out {config.held_out}: the edit's statistics are of this very text, which "
            "cannot show what the edit costs other text: give another one, or leave it out"
        )
    return held_out(model, config.held_out, CHUNKS, config.seed, WINDOW)


def name_of(config: "Config", chosen: "Editor") -> str:
    """What the held-out text is called."""
    from kedit.text import Corpus

    return Corpus(config.held_out, _seed(config, chosen)).name


def _seed(config: "Config", chosen: "Editor") -> int:
    """Of the model's own text, if that is held out: another one than the statistics'."""
    return getattr(chosen, "seed", config.seed) + 1


def _own_text(model: "HookedTransformer", seed: int) -> "Tensor":
    """Kept once it is said, since that takes longer than all that is done with it."""
    from kedit.drift import held_out
    from kedit.hf import cache_dir
    from kedit.kept import keep, kept
    from kedit.prompts import bos_ids, device
    from kedit.provenance import fingerprint
    from kedit.text import Corpus

    told = [fingerprint(model), bos_ids(model), Corpus(seed=seed).digest(), CHUNKS, WINDOW]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    file = cache_dir() / "held-out" / f"{key}.safetensors"
    found = kept(file)
    if found is None:
        console().print(
            f"The model says text to be held out: the first time that takes a while, and then it "
            f"is kept in {file.parent}.",
            markup=False,
            highlight=False,
        )
        found = {"tokens": held_out(model, "", CHUNKS, seed, WINDOW).cpu()}
        keep(file, found, {"model": str(model.cfg.model_name)})
    return found["tokens"].to(device(model))
