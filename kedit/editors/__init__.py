"""Editors, one method per file: a dataclass of settings that is called with a model and requests.

Importing an editor imports torch, which takes seconds. So the classes are imported only when they
are used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedit.editors.cues import Cues as Cues
    from kedit.editors.ft import FT as FT
    from kedit.editors.joint import Joint as Joint
    from kedit.editors.kn import KN as KN
    from kedit.editors.memit import MEMIT as MEMIT
    from kedit.editors.mend import MEND as MEND
    from kedit.editors.rome import ROME as ROME
    from kedit.editors.separate import Separate as Separate

# each in the module with its name
NAMES = ("Cues", "FT", "Joint", "KN", "MEMIT", "MEND", "ROME", "Separate")


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"kedit.editors has no {name!r}, only {', '.join(NAMES)}")
    return getattr(import_module(f"kedit.editors.{name.lower()}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *NAMES})
