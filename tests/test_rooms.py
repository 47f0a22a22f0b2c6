"""The house holds: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "kedit": {"kedit"},
    "probes": {"kedit", "probes"},
    "figures": {"kedit", "figures"},
    "experiments": {"kedit", "probes", "figures", "experiments"},
}
# inside kedit: what is lower must not import what is higher
FLOORS = [
    {
        "errors",
        "kept",
        "digests",
        "lines",
        "markdown",
        "progress",
        "screen",
        "spacing",
        "verdict",
    },
    {"facts", "heads", "bounds", "devices", "outline"},
    {"told"},
    {"toy", "hf"},
    {"model", "prompts", "sites"},
    {"runs", "metrics"},
    {"paths", "openings", "packed", "writes"},
    {"provenance", "weights"},
    {"edit", "export"},
    {"blocks", "closed_form"},
    {"stacked"},
    {"forward", "grids", "results", "prompt_trace", "head_results", "stats"},
    {"reading", "measures"},
    {"likelihood", "generation", "value", "teaching", "neurons"},
    {"contexts", "keys", "factors", "goals"},
    {"hypernetwork"},
    {"metalearning"},
    {"data"},
    {"neighbours", "wordings"},
    {"family"},
    {"text"},
    {"drift", "moments", "score"},
    {"documents", "rails", "spared"},
    {"editors"},
]


def imported(file: Path) -> set[str]:
    """Modules that `file` imports, at its top or inside a function, as dotted names."""
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
    for file in (ROOT / room).rglob("*.py"):
        rooms = {name.split(".")[0] for name in imported(file)} & set(MAY_IMPORT)
        assert rooms <= MAY_IMPORT[room], f"{file} imports {rooms - MAY_IMPORT[room]}"


def test_kedit_is_built_from_the_ground_up() -> None:
    floor_of = {name: floor for floor, names in enumerate(FLOORS) for name in names}
    for file in (ROOT / "kedit").rglob("*.py"):
        own = file.relative_to(ROOT / "kedit").parts[0].removesuffix(".py")
        if own == "__init__":
            continue
        assert own in floor_of, f"{own} has no floor yet: add it to FLOORS"
        for name in imported(file):
            if (
                name.startswith("kedit.")
                and (other := name.split(".")[1]) in floor_of
                and other != own
            ):
                assert floor_of[other] <= floor_of[own], f"{file} imports {other} from above"


def test_every_experiment_is_a_command_with_two_lines_of_main() -> None:
    for file in (ROOT / "experiments").glob("[a-z]*.py"):
        tail = file.read_text(encoding="utf-8").rstrip().splitlines()[-2:]
        assert tail[0] == 'if __name__ == "__main__":', file
        assert tail[1].strip().startswith("command(Config, run"), file
