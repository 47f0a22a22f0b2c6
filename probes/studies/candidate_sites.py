"""The candidates of `choose_sites`: every write site of a model at every key position.

A relation edit could be written to W_out or W_O of any layer, with the key of any of several tokens
(ROME chose one by causal tracing). The study `probes.studies.write_sites` tries them all; this
module lists them and builds the editor for each.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from transformer_lens import HookedTransformer

from kedit.editing.write_sites import Half
from kedit.editors.joint import Joint
from kedit.editors.registry import make_editor
from kedit.errors import InputError
from kedit.models.prompts import KeyPosition

POSITIONS: tuple[KeyPosition, ...] = ("subject_last", "object_last", "last")
HALVES: tuple[Half, ...] = ("mlp", "attn")
# The study makes one edit per case and candidate, so each edit has to be fast: values are trained
# against 1000 of the vocabulary's words (Gemma has 262,144), with one wording and without a family.
FAST_SETTINGS = "training.words=1000:wordings=0"


class CandidateSite(NamedTuple):
    """A write site, or one head's rows of W_O, at a key position.

    Args:
        layer: the layer.
        half: "mlp" for W_out, "attn" for W_O.
        head: the head whose rows of W_O are meant; None for the whole matrix.
        where: the key position.
    """

    layer: int
    half: Half
    head: int | None
    where: KeyPosition

    @property
    def name(self) -> str:
        """The candidate's name in records, such as "last L8 mlp" or "last L8H2"."""
        part = f" {self.half}" if self.head is None else f"H{self.head}"
        return f"{self.where} L{self.layer}{part}"

    def editor(self, plain: Joint) -> Joint:
        """Returns the editor `plain` with this site and position as its only ones."""
        site = {"layers": (self.layer,), "halves": (self.half,), "where": self.where}
        return dataclasses.replace(plain, **site)

    def spec(self, settings: str) -> str:
        """The same editor as a spec, for the command line.

        Args:
            settings: further settings of the editor, such as neighbours=8:weight=3.
        """
        spec = f"joint:layers=({self.layer},):halves=('{self.half}',):where={self.where}"
        return ":".join(filter(None, (spec, FAST_SETTINGS, settings.strip(":"))))


def plain_joint(model: HookedTransformer, settings: str) -> Joint:
    """Builds the joint editor that is then moved to every candidate.

    Args:
        settings: further settings, each as field=value, such as neighbours=8:weight=3.

    Raises:
        InputError: the editor has no such setting, or the setting cannot have this value.
    """
    spec = ":".join(filter(None, ("joint:layers=(0,)", FAST_SETTINGS, settings.strip(":"))))
    editor = make_editor(spec, model, "relation")
    assert isinstance(editor, Joint)
    return editor


def candidate_sites(
    model: HookedTransformer, layers: Sequence[int], positions: Sequence[KeyPosition]
) -> list[CandidateSite]:
    """Lists, for each key position and layer, W_out, W_O and each head's rows of W_O.

    Args:
        layers: the layers; empty: all layers.
        positions: key positions, some of POSITIONS.

    Raises:
        InputError: the model has no such layer, no position is given, or one is not in POSITIONS.
    """
    if not positions or not set(positions) <= set(POSITIONS):
        raise InputError(
            f"positions {', '.join(positions) or '(none)'}: must be one or more of "
            f"{', '.join(POSITIONS)}"
        )
    n_layers = model.cfg.n_layers
    unknown = [str(layer) for layer in sorted(set(layers)) if not 0 <= layer < n_layers]
    if unknown:
        raise InputError(f"layers {' '.join(unknown)}: the model has layers 0 to {n_layers - 1}")
    return [
        CandidateSite(layer, half, head, where)
        for where in POSITIONS
        if where in positions
        for layer, half in itertools.product(sorted(set(layers)) or range(n_layers), HALVES)
        for head in (None, *(range(model.cfg.n_heads) if half == "attn" else ()))
    ]


def positions_of(candidates: Iterable[CandidateSite]) -> list[KeyPosition]:
    """The candidates' key positions, each once, in the order of POSITIONS."""
    found = {candidate.where for candidate in candidates}
    return [where for where in POSITIONS if where in found]
