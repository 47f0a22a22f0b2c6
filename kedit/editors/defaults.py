"""Settings of the editors for a model that has none of its own, derived from those of other models.

Layers keep their depth relative to the whole:

- ROME is published for layers 8 of 24, 12 of 36, 17 of 48 and 5 of 28, and tuned on layer 5 of 18.
  The median is a third of the depth. Single-layer edits of subjects are made there.
- MEMIT's layers end there. Published are 5 of 48 and 6 of 28, tuned are 3 of 18: the median is a
  sixth of the depth.
- Relation edits are tuned on Gemma 3 270M only: they end at layer 11 of 18, and 1, 2 or 3 of its 18
  layers are edited.
- `cues` writes where it does on Gemma: at the subject in layers 5 and 8 of 18, at the end of the
  prompt in layer 13. Its relation edits are at layer 11, as those of `joint`, and are not tuned.

What depends on the scale of a model's numbers is known only when an editor meets its model, so it
is None here: the rate of training (`kedit.editing.values.STEP`), KN's factors
(`kedit.editors.kn.NUDGE`) and FT+L's bound (`kedit.editors.ft.bound_for`).

λ (`weight`) has no scale: C and the products of the edited keys are in the same units. So it is
Gemma's. The clamps are the published ones, 4 for an MLP's output and 0.75 for MEMIT's residual; an
editor that writes several W_out has 2, because each of them adds its share. The weight decay
depends on the scale and is left out, because the clamp limits a value too. The numbers of steps,
contexts and words are Gemma's, which make an edit fast.

Some heads write almost nothing on any text, so that a huge change of their rows seems to cost
nothing (SmolLM2 135M has such heads in layer 18). `shrink` gives it a price.

MEND needs a network that was trained for the model, so it has no such settings.
"""

from collections.abc import Mapping
from dataclasses import replace

from kedit.editing.edit import Editor
from kedit.editors.cues import Cues
from kedit.editors.ft import FT
from kedit.editors.kn import KN
from kedit.editors.memit import MEMIT
from kedit.editors.mend import MEND
from kedit.editors.presets import BARE, FEW, GEMMA_JOINT, SCALED, SCALED_RELATION
from kedit.editors.rome import ROME
from kedit.editors.separate import Separate, separated

# the residual, which MEMIT trains, is several times as long as what one MLP writes
_MEMIT = replace(SCALED, clamp=0.75)
_CUES = replace(SCALED, clamp=0.7, kl=0.5, stop=0.3)
_MEMIT_RELATION = replace(SCALED_RELATION, clamp=0.75)


def defaults(n_layers: int) -> Mapping[str, Editor]:
    """Returns derived settings for a model with this number of layers, by names as in PRESETS."""
    third, late = n_layers // 3, 11 * n_layers // 18
    second, fetched = 8 * n_layers // 18, 13 * n_layers // 18
    sixth, ninth, eighteenth = (max(1, round(n_layers / part)) for part in (6, 9, 18))
    joint = replace(
        GEMMA_JOINT,
        layers=_ending(late, eighteenth),
        training=replace(SCALED_RELATION, clamp=2.0),
        shrink=0.01,
    )
    return {
        "rome": ROME(third, SCALED, lengths=FEW),
        "memit": MEMIT(_ending(third, sixth), 1.0, _MEMIT),
        "ft": FT(third, steps=15),
        "ft+l": FT(third, steps=15, bound=None),
        "kn": KN(erase=None, write=None),
        "mend": MEND(),
        "rome relation": ROME(late, SCALED_RELATION, contexts=BARE),
        "memit relation": MEMIT(_ending(late, sixth), 10.0, _MEMIT_RELATION, contexts=BARE),
        "joint": joint,
        "w_out": replace(joint, layers=_ending(late, ninth), halves=("mlp",)),
        "w_o": replace(
            joint, layers=_ending(late, ninth), halves=("attn",), training=SCALED_RELATION
        ),
        "cues": Cues(
            tuple(
                dict.fromkeys(
                    (
                        (third, "mlp", "subject_last"),
                        (second, "mlp", "subject_last"),
                        (fetched, "attn", "last"),
                    )
                )
            ),
            _CUES,
            shrink=0.01,
        ),
        "cues relation": Cues(
            ((late, "mlp", "pair_last"), (late, "attn", "pair_last")), _CUES, shrink=0.01
        ),
        "separate": separated(joint),
        "emmet": Separate((third,), training=SCALED),
        "alphaedit": Separate(_ending(third, sixth), training=SCALED),
    }


def _ending(last: int, width: int) -> tuple[int, ...]:
    """Returns up to `width` adjacent layers that end at `last`."""
    return tuple(range(max(0, last + 1 - width), last + 1))
