"""Editors, one method a file: each is its settings, then a call with a model and requests.

Importing an editor brings torch, which naming one does not need: names are fetched when asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedit.editors.ft import FT as FT
    from kedit.editors.joint import Joint as Joint
    from kedit.editors.kn import KN as KN
    from kedit.editors.memit import MEMIT as MEMIT
    from kedit.editors.mend import MEND as MEND
    from kedit.editors.rome import ROME as ROME

NAMES = ("FT", "Joint", "KN", "MEMIT", "MEND", "ROME")  # each in the module of its name


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"kedit.editors has no {name!r}: {', '.join(NAMES)}")
    return getattr(import_module(f"kedit.editors.{name.lower()}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES})
