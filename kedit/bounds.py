"""One table of the values that options of commands and settings of editors may have.

It needs no torch, so that a command can refuse a wrong option before anything slow is imported.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kedit.errors import InputError


class Bound(NamedTuple):
    """An interval of allowed numbers, from `low` to `high`.

    Args:
        without: which of the two ends is itself excluded: "low", "high", "both", or "" for none.
    """

    low: int | float
    high: int | float = math.inf
    without: str = ""

    def holds(self, value: int | float) -> bool:
        """Whether `value` is finite and lies in the interval."""
        above = self.low < value if self.without in ("low", "both") else self.low <= value
        below = value < self.high if self.without in ("high", "both") else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        if self.low == -math.inf:
            return "a finite number"
        if self.high == math.inf:
            return f"a number {'above' if self.without else 'of at least'} {self.low}"
        if self.without == "low":
            return f"a number above {self.low} and of at most {self.high:g}"
        if self.without == "high":
            return f"a number of at least {self.low} and below {self.high:g}"
        return f"a number between {self.low} and {self.high}"


class Choice(NamedTuple):
    """The allowed words for a text, or for each text of a list."""

    words: tuple[str, ...]

    def holds(self, value: str) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {' '.join(self.words)}"


NOT_NEGATIVE, POSITIVE, AT_LEAST_ONE = Bound(0), Bound(0, without="low"), Bound(1)
SHARE, BELOW_ONE = Bound(0, 1), Bound(0, 1, without="high")
RATE = Bound(0, 1, without="low")
FINITE = Bound(-math.inf)
# a chunk has at least two tokens: without BOS nothing comes before its first token and predicts it
TWO = Bound(2)

# The rule for each option or setting by name, or by "owner.name" if one experiment or editor needs
# a different rule. Texts and booleans without a rule are checked where they are used.
RULES: Mapping[str, Bound | Choice] = {
    **dict.fromkeys(
        (
            "attention_kl", "batch", "bound", "controls", "decoded", "facts", "facts_per_relation",
            "forget", "heads", "heatmaps", "held", "kl", "layer", "layers", "lengths", "limit",
            "n_random_heads", "n_relations", "n_texts", "n_tokens", "neighbours", "others",
            "places", "prompts_per_kind", "questions", "seen", "shrink", "skip", "stop",
            "strongest", "test", "tune", "validate", "weight_decay", "words", "wordings",
        ),
        NOT_NEGATIVE,
    ),
    **dict.fromkeys(
        (
            "accumulate", "best", "choose", "chunks", "counts", "draws", "gradient_steps",
            "n_heads", "n_neighbours", "n_validate", "patience", "rank", "rounds", "samples",
            "screen_steps", "steps", "tokens_per_dim", "tries", "validate_every",
            "window", "workers",
        ),
        AT_LEAST_ONE,
    ),
    **dict.fromkeys(("clamp", "clamps", "keep", "lr", "weight"), POSITIVE),
    **dict.fromkeys(("agreement", "depth_share", "screen", "threshold"), SHARE),
    **dict.fromkeys(("balance", "null_space"), BELOW_ONE),
    **dict.fromkeys(("erase", "scale", "write"), FINITE),
    "gpus_per_worker": NOT_NEGATIVE,
    "seed": Bound(0, 2**63 - 1),
    "sites": Choice(("resid_post", "mlp_out", "attn_out", "z", "severed")),
    "positions": Choice(("subject_last", "object_last", "last")),
    "matrices": Choice(("W_in", "W_gate", "W_out", "W_V", "W_O")),
    "dtype": Choice(("float32", "float64", "bfloat16", "float16")),
    "find_neurons.halves": Choice(("mlp", "attn")),
    **dict.fromkeys(
        (f"find_neurons.{name}" for name in ("threshold", "agree_wordings", "agree_facts")),
        BELOW_ONE,
    ),
    "find_neurons.wordings": AT_LEAST_ONE,
    "held_out_share": SHARE,
    "compare_frontiers.values": FINITE,
    "chunk_tokens": TWO,
    **dict.fromkeys(("train_mend.rate", "train_mend.lr", "train_mend.lr_rate"), RATE),
    "train_mend.edit_weight": Bound(0, 1e6, without="low"),
    "train_mend.batch": AT_LEAST_ONE,
    "ft.batch": AT_LEAST_ONE,
    "ft.steps": NOT_NEGATIVE,
}  # fmt: skip


def rule_of(owner: str, name: str) -> Bound | Choice | None:
    """The rule for an option of an experiment or a setting of an editor; None: anything is allowed.

    Args:
        owner: the experiment or editor, in lower case.
        name: the option or setting.
    """
    return RULES.get(f"{owner}.{name}", RULES.get(name))


def broken(owner: str, name: str, value: Any) -> tuple[Any, Bound | Choice] | None:
    """The part of `value` that breaks its rule, with that rule; None if no part does."""
    rule = rule_of(owner, name)
    for part in _parts(value):
        is_number = isinstance(part, (int, float)) and not isinstance(part, bool)
        if isinstance(rule, Bound) and is_number and not rule.holds(part):
            return part, rule
        if isinstance(rule, Choice) and isinstance(part, str) and not rule.holds(part):
            return part, rule
    return None


def require_in_bounds(settings: Any) -> None:
    """Checks all fields of `settings`, a dataclass, against their rules.

    Raises:
        InputError: a field breaks its rule.
    """
    owner = type(settings).__name__.lower()
    for field in dataclasses.fields(settings):
        if found := broken(owner, field.name, getattr(settings, field.name)):
            raise InputError(f"{owner}:{field.name}={found[0]}: must be {found[1]}")


def _parts(value: Any) -> Iterator[Any]:
    """Yields `value` itself, or all items of a tuple or list, also of nested lists."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _parts(item)
    else:
        yield value
