"""The result of patching prompts of your own: the effect of every restored cell."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kedit.results.grids import EffectGrid, grids_of
from kedit.results.swept import Swept


@dataclass(frozen=True)
class PromptTrace(Swept):
    """All sweeps of a clean text, with the corrupted texts that it is compared with.

    Args:
        clean: the clean text, without blanks at its end.
        corrupted_texts: the corrupted texts, without blanks at their ends.
        labels: the tokens of the clean prompt; the answer's tokens in `given` are at the end.
        corrupted: the positions at which the tokens of clean and corrupted texts differ.
        grids: the scores of each sweep, by `EffectGrid.name`.
        answer, foil: the tokens that are scored; "" with a user's own metric.
        given: the answer's tokens before the scored token, which are at the end of every prompt.
    """

    clean: str
    corrupted_texts: tuple[str, ...]
    labels: tuple[str, ...]
    corrupted: tuple[int, ...]
    grids: Mapping[str, EffectGrid]
    answer: str = ""
    foil: str = ""
    given: str = ""

    def __repr__(self) -> str:
        scored = repr(self.answer) if self.answer else self.metrics[0]
        return f"PromptTrace({self.clean!r} -> {scored}, {', '.join(self.grids)})"

    @property
    def text(self) -> str:
        """The clean text."""
        return self.clean

    @property
    def corrupted_how(self) -> str:
        """The corrupted text, or how many corrupted texts there are."""
        first, *others = self.corrupted_texts
        return f"{len(others) + 1} other texts" if others else f"“{first}”"

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "PromptTrace":
        """The inverse of `to_record` and `tensors`."""
        fields: dict[str, Any] = {name: record[name] for name in cls.__dataclass_fields__}
        for name in ("corrupted_texts", "labels", "corrupted"):
            fields[name] = tuple(fields[name])
        fields["grids"] = grids_of(record["grids"], tensors)
        return cls(**fields)
