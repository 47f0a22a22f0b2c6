"""The house holds: who may import whom, and no circle of imports anywhere."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kedit": {"kedit"},
    "probes": {"kedit", "probes"},
    "figures": {"kedit", "figures"},
    "experiments": {"kedit", "probes", "figures", "experiments"},
}
# the rooms of kedit, from the ground up: each imports those before it, and the files beside them
ROOMS = ["models", "forward", "data", "results", "scoring", "editing", "editors", "studies"]
# they import other rooms lazily, when a name of the public face or a plot is asked for
LAZY = {"kedit", "kedit.show"}


def files_of(room: str) -> Iterator[tuple[str, Path]]:
    """The modules of a room: dotted name and file."""
    for file in sorted((ROOT / room).rglob("*.py")):
        dotted = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        yield dotted.removesuffix(".__init__"), file


def imported(file: Path) -> set[str]:
    """Dotted names of all that `file` imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    for name, file in files_of(room):
        rooms = {one.split(".")[0] for one in imported(file)} & set(MAY_IMPORT)
        assert name in LAZY or rooms <= MAY_IMPORT[room], f"{file} imports {rooms}"


def test_kedit_is_built_from_the_ground_up() -> None:
    for name, file in files_of("kedit"):
        room = next((one for one in name.split(".")[1:2] if one in ROOMS), "")
        above = ROOMS[ROOMS.index(room) + 1 :] if room else ROOMS
        for one in imported(file) if name not in LAZY else ():
            parts = one.split(".")
            is_above = parts[0] == "kedit" and len(parts) > 1 and parts[1] in above
            assert not is_above, f"{file} imports {one} from above"


def test_no_imports_run_in_a_circle() -> None:
    modules = dict(one for room in MAY_IMPORT for one in files_of(room))
    graph = {name: set() for name in modules}
    for name, file in modules.items():
        for one in imported(file) if name not in LAZY else ():
            home = one if one in modules else one.rpartition(".")[0]
            if home in modules and home != name:
                graph[name].add(home)
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


@pytest.mark.parametrize(("name", "file"), [one for one in files_of("experiments")])
def test_an_experiment_is_short_and_imports_no_other(name: str, file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    if name == "experiments" or "._" in name:
        return
    assert lines[-2] == 'if __name__ == "__main__":'
    assert lines[-1].strip().startswith("command(Config, run")
    others = {one for one, _ in files_of("experiments") if "._" not in one} - {"experiments"}
    assert not {one.rpartition(".")[0] for one in imported(file)} & others, f"{file} imports others"
