"""What would stop a run after minutes, looked for before torch is imported or weights are read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments._bounds import require_options_in_bounds
from experiments._listed_editors import ABLATED, split, tuned
from kedit.data.named import HUB, NO_FILES

if TYPE_CHECKING:
    from kedit.models.outline import Outline

RECORDS = ("facts", "cases", "but")  # options that name records, several with commas between
TEXTS = ("text", "held_out")
FILES = ("tuned", "space", "source", "edits", "extras")
SITES_OF_JOINT = ("mlp", "attn")  # each by itself, as choose_sites writes
WINDOWED = ("sites", "n_heads")  # options beside which --window counts layers
PAPERS_WINDOW = 10  # layers; on a shallower model too


def require_possible(config: Any, experiment: str = "") -> None:
    """Looks at all options, and at files and model that they name, in about a second.

    Args:
        experiment: its name, for options that mean another thing in it than elsewhere.

    Raises:
        InputError: an option that no run could use. It says which, and what is wanted.
    """
    from kedit.models.devices import require_device
    from kedit.models.outline import outline_of

    require_options_in_bounds(config, experiment)
    _require_noise(config)
    if hasattr(config, "device"):
        require_device(config.device, getattr(config, "dtype", "float32"))
    _require_files(config)
    if not hasattr(config, "model"):
        return
    outline = outline_of(config.model)
    for told, side in editors_of(config):
        _require_editor(told, config.model, side, outline)
    if outline is not None:
        _require_inside(config, outline)


def editors_of(config: Any) -> Iterator[tuple[str, str]]:
    """The editors that a configuration tells, each with the side that it edits.

    Raises:
        InputError: a file of editors that cannot be read, or none at all.
    """
    from kedit.editors.specs import SIDES
    from kedit.errors import InputError

    side = getattr(config, "perspective", "relation")
    if hasattr(config, "editors"):
        told = split(config.editors)
        if not told:
            raise InputError("no editor is told: --editors rome,memit,ft")
        sides = SIDES if side == "both" else ("entity",) if side == "together" else (side,)
        yield from ((one, side) for side in sides for one in told)
    elif hasattr(config, "editor"):
        yield config.editor, side
    elif hasattr(config, "tuned"):
        names = tuple(ABLATED.values())
        told = tuned(config.tuned, names) if config.tuned else dict(zip(names, names, strict=True))
        yield from ((one, side) for one in told.values())
    elif hasattr(config, "settings"):
        more = config.settings.strip(":")
        for half in SITES_OF_JOINT:
            told = f"joint:layers=(0,):halves=('{half}',)"
            yield f"{told}:{more}" if more else told, "relation"


def _require_noise(config: Any) -> None:
    from probes.noise_kinds import noise_kind

    if getattr(config, "by", "") == "noise":
        noise_kind(config.noise)


def _require_files(config: Any) -> None:
    """Raises InputError for a file that an option names and that is not there."""
    from kedit.errors import InputError

    for name in RECORDS:
        for told in str(getattr(config, name, "")).split(","):
            _require_file(f"--{name} {told}", told, " (builtin and toy are kedit's own)")
    for name in TEXTS:
        told = getattr(config, name, "")
        # train_mend counts requests by this name
        if isinstance(told, str):
            _require_text(f"--{name.replace('_', '-')} {told}", told)
    for name in FILES:
        told = getattr(config, name, "")
        _require_file(f"--{name} {told}", told)
    if getattr(config, "editors", "").endswith(".json"):
        _require_file(f"--editors {config.editors}", config.editors)
    out = getattr(config, "out", "")
    for place in (Path(out), *Path(out).parents) if out else ():
        if _kind(str(place)) == "file":
            raise InputError(f"--out {out}: {place} is a file, and a folder is wanted")


def _require_text(option: str, told: str) -> None:
    if not told.startswith(HUB):
        _require_file(option, told, " (hf:NAME is a data set of the Hugging Face hub)")


def _require_file(option: str, told: str, or_else: str = "") -> None:
    from kedit.errors import InputError

    if told in NO_FILES or (kind := _kind(told)) == "file":
        return
    wrong = "it is a folder, and a file is wanted" if kind == "folder" else "there is no such file"
    raise InputError(f"{option:.200}: {wrong}{or_else if kind != 'folder' else ''}")


def _kind(told: str) -> str:
    """ "file", "folder", or "" for neither."""
    try:
        path = Path(told)
        return "" if not told else "folder" if path.is_dir() else "file" if path.exists() else ""
    except (OSError, ValueError):
        return ""  # too long for a name, or a NUL in it


def _require_editor(told: str, model: str, side: str, outline: "Outline | None") -> None:
    """Looks at an editor's name and settings, its layers, and the files that these name."""
    from kedit.editors import specs as editors
    from kedit.errors import InputError

    found = editors.require_possible(told, model, side, outline.n_layers if outline else None)
    for values in found.values():
        for name, value in values.items():
            option = f"{name}={value}"
            if name == "text":
                _require_text(option, value)
            elif name == "file":
                _require_file(option, value)
            elif name == "moments":
                for one in value:
                    _require_file(f"moments: {one}", one)
            elif outline and name in ("layer", "layers"):
                layers = value if isinstance(value, tuple) else (value,)
                _require_layers(editors.shortened(told), layers, model, outline)
            elif outline and name == "heads":
                for layer, head in value:
                    if layer >= outline.n_layers or head >= outline.n_heads:
                        raise InputError(f"{editors.shortened(told)}: {_heads(model, outline)}")


def _require_inside(config: Any, outline: "Outline") -> None:
    """Raises InputError for layers, heads or a window that the model does not have."""
    from kedit.errors import InputError
    from kedit.heads import Head

    layers = getattr(config, "layers", ())
    if layers:
        _require_layers(f"--layers {' '.join(map(str, layers))}", layers, config.model, outline)
    heads = getattr(config, "heads", "")
    if isinstance(heads, str):
        for one in (Head.named(name) for name in heads.split(",") if heads):
            if one.layer >= outline.n_layers or one.head >= outline.n_heads:
                raise InputError(f"--heads {one}: {_heads(config.model, outline)}")
    elif heads >= outline.n_heads:
        raise InputError(f"--heads {heads}: fewer than a layer's {outline.n_heads} are wanted")
    if any(hasattr(config, name) for name in WINDOWED):
        widest = max(outline.n_layers, PAPERS_WINDOW)
        if config.window > widest:
            raise InputError(
                f"--window {config.window}: {config.model} has {outline.n_layers} layers, and a "
                f"window of at most {widest} is wanted (1 for single layers)"
            )


def _require_layers(told: str, layers: Sequence[int], model: str, outline: "Outline") -> None:
    from kedit.errors import InputError

    if any(not 0 <= layer < outline.n_layers for layer in layers):
        raise InputError(f"{told}: {model} has layers 0 to {outline.n_layers - 1}")


def _heads(model: str, outline: "Outline") -> str:
    return (
        f"{model} has {outline.n_layers} layers of {outline.n_heads} heads, L0H0 to "
        f"L{outline.n_layers - 1}H{outline.n_heads - 1}"
    )
