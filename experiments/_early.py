"""Finds what would stop a run after minutes, before torch is imported or weights are read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments._bounds import require_options_in_bounds
from experiments._spread import spread_of
from kedit.data.named import kind_of, require_file, require_records, require_text
from kedit.editors.lists import parse_specs, read_tuned
from kedit.editors.possible import require_editor
from kedit.editors.specs import SIDES, varied
from kedit.errors import InputError
from kedit.heads import Head
from kedit.models.devices import require_device
from kedit.models.inside import require_heads, require_layers
from kedit.models.outline import Outline, outline_of
from probes.noise_kinds import noise_kind

RECORDS = ("facts", "cases", "exclude")  # options that name files of records, comma-separated
TEXTS = ("text", "held_out", "locality_text")
FILES = ("tuned", "space", "source", "edits", "extras")
ABLATED = ("w_out", "w_o", "joint")  # editors of ablate_attention; `tuned` holds their settings
HALVES = ("mlp", "attn")  # choose_sites edits each of them separately
PAPERS_WINDOW = 10  # layers; the papers' window is allowed on shallower models too


def require_possible(config: Any, experiment: str = "") -> None:
    """Checks all options, and the files and the model that they name, in about a second.

    Args:
        experiment: its name, because some options have a rule of their own in one experiment.

    Raises:
        InputError: no run could use an option. The message names the option and what is needed.
    """
    require_options_in_bounds(config, experiment)
    _ = spread_of(config).parts  # raises if --shard has another form
    if getattr(config, "by", "") == "noise":
        noise_kind(config.noise)
    _require_files(config)
    if not hasattr(config, "model"):
        return  # nothing is computed on a device either
    if hasattr(config, "device"):
        require_device(config.device, getattr(config, "dtype", "float32"))
    outline = outline_of(config.model)
    for spec, side in editors_of(config):
        require_editor(spec, config.model, side, outline)
    if outline is not None:
        _require_inside(config, outline)


def editors_of(config: Any) -> Iterator[tuple[str, str]]:
    """The specs of a configuration's editors, each with the side that it edits.

    Raises:
        InputError: a file of editors cannot be read, or no editor is given.
    """
    side = getattr(config, "perspective", "relation")
    if hasattr(config, "editors"):
        specs = parse_specs(config.editors)
        if not specs:
            raise InputError("--editors: no editor is given; an example is --editors rome,memit,ft")
        if hasattr(config, "values"):  # compare_frontiers varies a setting of all editors
            specs = [varied(spec, config.field, value) for spec in specs for value in config.values]
        sides = SIDES if side == "both" else ("entity",) if side == "together" else (side,)
        yield from ((spec, side) for side in sides for spec in specs)
    elif hasattr(config, "editor"):
        yield config.editor, side
    elif hasattr(config, "tuned"):
        specs = read_tuned(config.tuned, ABLATED).values() if config.tuned else ABLATED
        yield from ((spec, side) for spec in specs)
    elif hasattr(config, "settings"):
        more = config.settings.strip(":")
        for half in HALVES:
            spec = f"joint:layers=(0,):halves=('{half}',)"
            yield f"{spec}:{more}" if more else spec, "relation"


def _require_files(config: Any) -> None:
    """Raises InputError if an option names a file that does not exist."""
    for name in RECORDS:
        for source in str(getattr(config, name, "")).split(","):
            require_records(f"--{name} {source}", source)
    for name in TEXTS:
        source = getattr(config, name, "")
        require_text(f"--{name.replace('_', '-')} {source}", source)
    editors = getattr(config, "editors", "")
    files = {name: getattr(config, name, "") for name in FILES}
    files["editors"] = editors if editors.endswith(".json") else ""
    for name, file in files.items():
        require_file(f"--{name} {file}", file)
    out = getattr(config, "out", "")
    for path in (Path(out), *Path(out).parents) if out else ():
        if kind_of(str(path)) == "file":
            raise InputError(f"--out {out}: {path} is a file, but a folder is needed")


def _require_inside(config: Any, outline: Outline) -> None:
    """Raises InputError for layers, heads or a window that the model does not have."""
    layers, heads = getattr(config, "layers", ()), getattr(config, "heads", "")
    require_layers(f"--layers {' '.join(map(str, layers))}", layers, config.model, outline)
    for name in heads.split(",") if heads else ():
        require_heads(f"--heads {name}", [Head.named(name)], config.model, outline)
    n_random = getattr(config, "n_random_heads", 0)
    if n_random >= outline.n_heads:
        raise InputError(
            f"--n-random-heads {n_random}: must be less than the {outline.n_heads} heads of a layer"
        )
    widest = max(outline.n_layers, PAPERS_WINDOW)
    if getattr(config, "window", 1) > widest:
        raise InputError(
            f"--window {config.window}: {config.model} has {outline.n_layers} layers; the window "
            f"must be at most {widest} (1 for single layers)"
        )
