"""One attention head: its place in the model, and its name."""

import re
from typing import NamedTuple

from kedit.errors import InputError


class Head(NamedTuple):
    """Ordered by layer. `str` names it as figures and command lines do: L11H2."""

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def named(cls, name: str) -> "Head":
        """The inverse of `str`; "11.2" will do too.

        Raises:
            InputError: it is not a head's name.
        """
        found = re.fullmatch(r"(?:L(\d{1,6})H|(\d{1,6})\.)(\d{1,6})", name.strip(), re.IGNORECASE)
        if not found:
            raise InputError(f"head {name!r:.80}: a name as L11H2 or 11.2 is wanted")
        return cls(int(found[1] or found[2]), int(found[3]))
