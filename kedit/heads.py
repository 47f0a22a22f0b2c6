"""Names attention heads by layer and index."""

import re
from typing import NamedTuple

from kedit.errors import InputError


class Head(NamedTuple):
    """One attention head: its layer and its index within the layer.

    Heads sort by layer. `str` gives the name that figures and command lines use: L11H2.
    """

    layer: int
    head: int

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head}"

    @classmethod
    def named(cls, name: str) -> "Head":
        """Returns the head with this name, such as "L11H2" or "11.2".

        Raises:
            InputError: `name` has neither form.
        """
        found = re.fullmatch(r"(?:L(\d{1,6})H|(\d{1,6})\.)(\d{1,6})", name.strip(), re.IGNORECASE)
        if not found:
            raise InputError(f"head {name!r:.80}: must be a name such as L11H2 or 11.2")
        return cls(int(found[1] or found[2]), int(found[3]))
