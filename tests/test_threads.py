"""Threads that spin while they wait: no command has them, and a notebook that has them is told."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kedit.models.load import load
from kedit.models.threads import WAITING, warn_of_spinning_threads

ROOT = Path(__file__).parent.parent

# imports each module as if it were the first one, up to its first import of torch
IMPORTING = """
import importlib, pkgutil, sys
import benchmarks, experiments

ROOMS = ("benchmarks", "experiments", "figures", "kedit", "probes", "tests")

class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            before_kedit.append("kedit" not in sys.modules)
            raise ModuleNotFoundError("torch is not needed here")

sys.meta_path.insert(0, Torch())
modules = ["figures.report"]
for package in (benchmarks, experiments):
    modules += [f"{package.__name__}.{one.name}" for one in pkgutil.iter_modules(package.__path__)]
for module in modules:
    for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
        del sys.modules[name]
    before_kedit = []
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:
        assert before_kedit
    print(module, "torch first" if True in before_kedit[:1] else "kedit first or no torch")
"""


def test_every_command_imports_kedit_before_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING], cwd=ROOT, capture_output=True, text=True, check=True
    )
    order = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert {"benchmarks.trace", "experiments.trace_relation", "figures.report"} <= set(order)
    assert set(order.values()) == {"kedit first or no torch"}


@pytest.mark.parametrize("name", [None, *WAITING])
def test_a_user_whose_threads_spin_is_told_once(
    name: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for variable in WAITING:
        monkeypatch.delenv(variable, raising=False)
    if name is not None:
        monkeypatch.setenv(name, "0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    warn_of_spinning_threads.cache_clear()
    with caplog.at_level(logging.WARNING, "kedit"):
        load("toy", device="cpu")
        load("toy", device="cpu")
    assert caplog.text.count("import kedit before torch") == (name is None)
    warn_of_spinning_threads.cache_clear()
