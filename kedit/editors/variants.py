"""Others' methods, and ablations of ours, that are an editor of ours with some settings fixed."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Variant(NamedTuple):
    """`editor` with `fixed` settings; the rest are the model's own for it, where it has some."""

    editor: str
    fixed: Mapping[str, Any]


_MLP, _ATTN = ("mlp",), ("attn",)
_BOTH = (*_MLP, *_ATTN)

VARIANTS: Mapping[str, Variant] = {
    # ROME with one key throughout (Gupta et al. 2024, arXiv 2403.07175): what ours is anyway
    "r-rome": Variant("rome", {"key": "mean"}),
    "rome@last": Variant("rome", {"where": "last"}),
    "rome@pair": Variant("rome", {"where": "pair_last"}),
    "w_out": Variant("joint", {"halves": _MLP}),
    "w_o": Variant("joint", {"halves": _ATTN}),
    # both halves trained, W_out alone written (Li et al. 2023, arXiv 2308.08742); theirs spreads
    # over layers by square roots, ours has a value of its own at each
    "pmet": Variant("joint", {"trained": _BOTH, "halves": _MLP, "solve": "in_turn"}),
    "pmet-2": Variant("joint", {"trained": _BOTH, "halves": _BOTH, "solve": "in_turn"}),
    # one MLP at the last token, the moment of other subjects' keys added to C (arXiv 2408.15091):
    # theirs has all prompts of CounterFact, ours the request's own about others
    "rets": Variant(
        "joint",
        {
            "halves": _MLP,
            "where": "last",
            "insert": "exact",
            "wordings": 0,
            "neighbours": 64,
            "family": 0,
        },
    ),
    # a factor between both halves, as IntAttn-Edit has one (arXiv 2510.27400)
    "intattn": Variant("joint", {"halves": _BOTH, "solve": "in_turn", "balance": 0.5}),
    # MEMIT with equalities (Gupta et al. 2024, arXiv 2403.14236)
    "emmet": Variant(
        "joint", {"halves": _MLP, "where": "subject_last", "insert": "exact", "neighbours": 0}
    ),
    # MEMIT in the null space of C (Fang et al. 2024, arXiv 2410.02355)
    "alphaedit": Variant(
        "joint", {"halves": _MLP, "where": "subject_last", "null_space": 0.2, "neighbours": 0}
    ),
}
