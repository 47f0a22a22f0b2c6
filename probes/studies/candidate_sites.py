"""Write sites at key positions: the places where a relation edit may be written."""

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
# among few of Gemma’s 262,144 words, in one wording, without a family: all would take far longer
FAST_SETTINGS = "training.words=1000:wordings=0:family=0"


class CandidateSite(NamedTuple):
    """A write site, or one head's rows of W_O, at a key position."""

    layer: int
    half: Half
    head: int | None
    where: KeyPosition

    @property
    def name(self) -> str:
        """As records have it: "last L8 mlp", "last L8H2"."""
        part = f" {self.half}" if self.head is None else f"H{self.head}"
        return f"{self.where} L{self.layer}{part}"

    def editor(self, plain: Joint) -> Joint:
        """`plain`, writing here and nowhere else."""
        own = {"layers": (self.layer,), "halves": (self.half,), "where": self.where}
        return dataclasses.replace(plain, **own)

    def spec(self, settings: str) -> str:
        """The same editor as a command line has it."""
        spec = f"joint:layers=({self.layer},):halves=('{self.half}',):where={self.where}"
        return ":".join(filter(None, (spec, FAST_SETTINGS, settings.strip(":"))))


def plain_joint(model: HookedTransformer, settings: str) -> Joint:
    """The joint editor that is tried at every place.

    Args:
        settings: more of its settings, each as field=value: neighbours=8:weight=3.

    Raises:
        InputError: it has no such setting, or not with such a value.
    """
    spec = ":".join(filter(None, ("joint:layers=(0,)", FAST_SETTINGS, settings.strip(":"))))
    made = make_editor(spec, model, "relation")
    assert isinstance(made, Joint)
    return made


def candidate_sites(
    model: HookedTransformer, layers: Sequence[int], positions: Sequence[KeyPosition]
) -> list[CandidateSite]:
    """By key position and layer: W_out, W_O, and W_O's heads.

    Args:
        layers: none for all of the model's.

    Raises:
        InputError: the model has no such layer, or no such position is looked at.
    """
    if not positions or not set(positions) <= set(POSITIONS):
        raise InputError(
            f"positions {', '.join(positions)}: any of {', '.join(POSITIONS)} is wanted"
        )
    n_layers = model.cfg.n_layers
    strange = [str(layer) for layer in sorted(set(layers)) if not 0 <= layer < n_layers]
    if strange:
        raise InputError(f"layers {' '.join(strange)}: the model has 0 to {n_layers - 1}")
    return [
        CandidateSite(layer, half, head, where)
        for where in POSITIONS
        if where in positions
        for layer, half in itertools.product(sorted(set(layers)) or range(n_layers), HALVES)
        for head in (None, *(range(model.cfg.n_heads) if half == "attn" else ()))
    ]


def positions_of(every: Iterable[CandidateSite]) -> list[KeyPosition]:
    """The key positions that places are at, in the order of POSITIONS."""
    there = {place.where for place in every}
    return [where for where in POSITIONS if where in there]
