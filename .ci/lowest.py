"""Prints constraints with the lowest version of each dependency that pyproject.toml allows.

torch is taken from constraints.txt: older versions have no wheel for CPUs that pip finds by name.
"""

import re
import sys
from pathlib import Path

import tomllib

ROOT = Path(__file__).parent.parent
project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
for needed in project["dependencies"]:
    name, version = re.split(">=", needed.partition(",")[0])
    lowest = f"{name}=={version}"
    if name == "torch":
        lowest = next(line for line in pinned if line.startswith("torch=="))
    sys.stdout.write(f"{lowest}\n")
