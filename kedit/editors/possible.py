"""Checks whether a model can be edited by an editor, without importing torch or reading weights."""

from kedit.data.named import require_file, require_text
from kedit.editors.specs import require_possible, shortened
from kedit.heads import Head
from kedit.models.inside import require_heads, require_layers
from kedit.models.outline import Outline


def require_editor(spec: str, model: str, side: str, outline: Outline | None) -> None:
    """Checks an editor's name and settings, its layers and heads, and the files named in it.

    Args:
        spec: such as "rome:layer=5".
        model: name of the model.
        side: the side from which it edits: "entity" or "relation".
        outline: of the model, if known.

    Raises:
        InputError: the editor cannot be used; the message says why and what is needed.
    """
    name_shown = shortened(spec)
    found = require_possible(spec, model, side, outline.n_layers if outline else None)
    for name, value in (item for values in found.values() for item in values.items()):
        if name == "text":
            require_text(f"{name}={value}", value)
        elif name == "file":
            require_file(f"{name}={value}", value)
        elif name == "moments":
            for file in value:
                require_file(f"moments: {file}", file)
        elif outline and name in ("layer", "layers"):
            layers = value if isinstance(value, tuple) else (value,)
            require_layers(name_shown, layers, model, outline)
        elif outline and name == "places":
            require_layers(name_shown, [layer for layer, *_ in value], model, outline)
        elif outline and name == "heads":
            require_heads(name_shown, [Head(*head) for head in value], model, outline)
