"""Settings of the editors: as published, by model, and as tuned here on records never reported."""

from collections.abc import Mapping

from kedit.edit import Editor
from kedit.editors.ft import FT
from kedit.editors.memit import MEMIT
from kedit.editors.rome import ROME
from kedit.value import Training

# Meng et al. 2022 and 2023, and RaKE's copies of their files. Their C is of 100,000 articles of
# Wikipedia; ours, by default, of text that the model itself says.
_GPT2_XL_MEMIT = Training(clamp=0.75)
_GPT_J_MEMIT = Training(clamp=0.75, steps=25)
# Tuned on CounterFact: experiments.compare_editors reports on other subjects.
_GEMMA = Training(steps=20, lr=0.3, weight_decay=0.05, clamp=1.0)
_TOY = Training(lr=0.1, weight_decay=0.05)

# by model, then by editor; "NAME relation" where a relation edit has settings of its own
PRESETS: Mapping[str, Mapping[str, Editor]] = {
    "gpt2-medium": {
        "rome": ROME(8, Training(clamp=3.0)),
        "ft+l": FT(0, bound=2e-3),
    },
    "gpt2-large": {
        "rome": ROME(12),
        "ft+l": FT(0, bound=1e-3),
    },
    "gpt2-xl": {
        "rome": ROME(17),
        "memit": MEMIT((13, 14, 15, 16, 17), 20000.0, _GPT2_XL_MEMIT),
        "ft": FT(1),
        "ft+l": FT(0, bound=5e-4),
    },
    "gpt-j-6B": {
        "rome": ROME(5),
        "memit": MEMIT((3, 4, 5, 6, 7, 8), 15000.0, _GPT_J_MEMIT),
        "ft": FT(21),
        "ft+l": FT(0, bound=5e-5),
    },
    "gemma-3-270m": {
        "rome": ROME(5, _GEMMA),
        "memit": MEMIT((4, 5, 6), 1.0, _GEMMA),
        "ft": FT(5, lr=5e-4),
        "ft+l": FT(5, bound=1e-3),
    },
    "toy": {
        "rome": ROME(1, _TOY),
        "memit": MEMIT((0, 1), 1.0, _TOY),
        "ft": FT(1, lr=5e-3),
        "ft+l": FT(1, lr=5e-3, bound=0.02),
    },
}
