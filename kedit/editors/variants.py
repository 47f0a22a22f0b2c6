"""Names for other authors' methods and for ablations: editors of kedit with some settings fixed."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """An editor with fixed settings; the other settings are the model's preset, if it has one."""

    editor: str
    fixed: Mapping[str, Any]


_MLP, _ATTN = ("mlp",), ("attn",)
_BOTH = (*_MLP, *_ATTN)

VARIANTS: Mapping[str, Variant] = {
    # ROME with one key throughout (Gupta et al. 2024, arXiv 2403.07175), which is kedit's default
    "r-rome": Variant("rome", {"key": "mean"}),
    "rome@last": Variant("rome", {"where": "last"}),
    "rome@pair": Variant("rome", {"where": "pair_last"}),
    "w_out": Variant("joint", {"halves": _MLP}),
    "w_o": Variant("joint", {"halves": _ATTN}),
    # Both halves are trained, only W_out is written (Li et al. 2023, arXiv 2308.08742). The paper
    # spreads one change over layers by square roots; here each layer has its own value.
    "pmet": Variant("separate", {"trained": _BOTH, "halves": _MLP}),
    "pmet-2": Variant("separate", {"trained": _BOTH, "halves": _BOTH}),
    # One MLP at the last token, with the moment of other subjects' keys added to C (arXiv
    # 2408.15091). The paper uses all prompts of CounterFact; here, the request's own prompt is
    # filled with other subjects.
    "rets": Variant(
        "separate",
        {"halves": _MLP, "where": "last", "insert": "exact", "wordings": 0, "neighbours": 64},
    ),
    # a fixed split of the change between both halves, after IntAttn-Edit (arXiv 2510.27400)
    "intattn": Variant("separate", {"halves": _BOTH, "balance": 0.5}),
    # MEMIT with equality constraints (Gupta et al. 2024, arXiv 2403.14236)
    "emmet": Variant(
        "separate", {"halves": _MLP, "where": "subject_last", "insert": "exact", "neighbours": 0}
    ),
    # MEMIT with deltas projected onto small directions of C (Fang et al. 2024, arXiv 2410.02355)
    "alphaedit": Variant(
        "separate", {"halves": _MLP, "where": "subject_last", "null_space": 0.2, "neighbours": 0}
    ),
}
