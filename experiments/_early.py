"""What would stop a run after minutes, looked for before torch is imported or weights are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments._bounds import require_options_in_bounds
from kedit.data.named import kind_of, require_file, require_records, require_text
from kedit.editors.lists import parse_specs, read_tuned
from kedit.editors.possible import require_editor
from kedit.editors.specs import SIDES
from kedit.errors import InputError
from kedit.heads import Head
from kedit.models.devices import require_device
from kedit.models.inside import require_heads, require_layers
from kedit.models.outline import Outline, outline_of
from probes.noise_kinds import noise_kind

RECORDS = ("facts", "cases", "exclude")  # options that name records, several with commas between
TEXTS = ("text", "held_out", "locality_text")
FILES = ("tuned", "space", "source", "edits", "extras")
ABLATED = ("w_out", "w_o", "joint")  # editors of ablate_attention, whose settings `tuned` has
SITES_OF_JOINT = ("mlp", "attn")  # each by itself, as choose_sites writes
PAPERS_WINDOW = 10  # layers; on a shallower model too


def require_possible(config: Any, experiment: str = "") -> None:
    """Looks at all options, and at files and model that they name, in about a second.

    Args:
        experiment: its name, for options that mean another thing in it than elsewhere.

    Raises:
        InputError: an option that no run could use. It says which, and what is wanted.
    """
    require_options_in_bounds(config, experiment)
    if getattr(config, "by", "") == "noise":
        noise_kind(config.noise)
    if hasattr(config, "device"):
        require_device(config.device, getattr(config, "dtype", "float32"))
    _require_files(config)
    if not hasattr(config, "model"):
        return
    outline = outline_of(config.model)
    for spec, side in editors_of(config):
        require_editor(spec, config.model, side, outline)
    if outline is not None:
        _require_inside(config, outline)


def editors_of(config: Any) -> Iterator[tuple[str, str]]:
    """The specs of the editors that a configuration tells, each with the side that it edits.

    Raises:
        InputError: a file of editors that cannot be read, or none at all.
    """
    side = getattr(config, "perspective", "relation")
    if hasattr(config, "editors"):
        specs = parse_specs(config.editors)
        if not specs:
            raise InputError("no editor is told: --editors rome,memit,ft")
        sides = SIDES if side == "both" else ("entity",) if side == "together" else (side,)
        yield from ((spec, side) for side in sides for spec in specs)
    elif hasattr(config, "editor"):
        yield config.editor, side
    elif hasattr(config, "tuned"):
        specs = read_tuned(config.tuned, ABLATED).values() if config.tuned else ABLATED
        yield from ((spec, side) for spec in specs)
    elif hasattr(config, "settings"):
        more = config.settings.strip(":")
        for half in SITES_OF_JOINT:
            spec = f"joint:layers=(0,):halves=('{half}',)"
            yield f"{spec}:{more}" if more else spec, "relation"


def _require_files(config: Any) -> None:
    """Raises InputError for a file that an option names and that is not there."""
    for name in RECORDS:
        for one in str(getattr(config, name, "")).split(","):
            require_records(f"--{name} {one}", one)
    for name in TEXTS:
        source = getattr(config, name, "")
        require_text(f"--{name.replace('_', '-')} {source}", source)
    editors = getattr(config, "editors", "")
    files = {name: getattr(config, name, "") for name in FILES}
    files["editors"] = editors if editors.endswith(".json") else ""
    for name, told in files.items():
        require_file(f"--{name} {told}", told)
    out = getattr(config, "out", "")
    for place in (Path(out), *Path(out).parents) if out else ():
        if kind_of(str(place)) == "file":
            raise InputError(f"--out {out}: {place} is a file, and a folder is wanted")


def _require_inside(config: Any, outline: Outline) -> None:
    """Raises InputError for layers, heads or a window that the model does not have."""
    layers, heads = getattr(config, "layers", ()), getattr(config, "heads", "")
    told = f"--layers {' '.join(map(str, layers))}"
    require_layers(told, layers, config.model, outline)
    for name in heads.split(",") if heads else ():
        require_heads(f"--heads {name}", [Head.named(name)], config.model, outline)
    n_random = getattr(config, "n_random_heads", 0)
    if n_random >= outline.n_heads:
        raise InputError(
            f"--n-random-heads {n_random}: fewer than a layer's {outline.n_heads} are wanted"
        )
    widest = max(outline.n_layers, PAPERS_WINDOW)
    if getattr(config, "window", 1) > widest:
        raise InputError(
            f"--window {config.window}: {config.model} has {outline.n_layers} layers, and a "
            f"window of at most {widest} is wanted (1 for single layers)"
        )
