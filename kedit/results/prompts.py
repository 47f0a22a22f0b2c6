"""What patching one's own prompts found: the effect of every cell, with the texts it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kedit.results.grids import EffectGrid, grids_of
from kedit.results.swept import Swept


@dataclass(frozen=True)
class PromptTrace(Swept):
    """All sweeps of a clean text and of the corrupted ones that it is held against.

    Args:
        clean, corrupted_texts: as they were given, without blanks at their ends.
        labels: the clean prompt's tokens, those that are given of the answer at the end.
        corrupted: the positions at which tokens differ.
        grids: by EffectGrid.name.
        answer, foil: the tokens that are scored; "" with a metric of one's own.
        given: the answer's tokens before the one that is scored, which end every prompt.
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
        return self.clean

    @property
    def corrupted_how(self) -> str:
        """What the clean text was exchanged for, in words."""
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
