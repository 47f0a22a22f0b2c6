"""Whether an editor can be had for a model: looked at before torch is imported or weights read."""

from kedit.data.named import require_file, require_text
from kedit.editors.specs import require_possible, shortened
from kedit.heads import Head
from kedit.models.inside import require_heads, require_layers
from kedit.models.outline import Outline


def require_editor(spec: str, model: str, side: str, outline: Outline | None) -> None:
    """Looks at an editor's name and settings, its layers and heads, and the files that these name.

    Args:
        spec: such as "rome:layer=5".
        side: from which it edits: "entity" or "relation".
        outline: of the model, if that is known.

    Raises:
        InputError: no run could use it. It says why, and what is wanted.
    """
    told = shortened(spec)
    found = require_possible(spec, model, side, outline.n_layers if outline else None)
    for name, value in (one for values in found.values() for one in values.items()):
        if name == "text":
            require_text(f"{name}={value}", value)
        elif name == "file":
            require_file(f"{name}={value}", value)
        elif name == "moments":
            for one in value:
                require_file(f"moments: {one}", one)
        elif outline and name in ("layer", "layers"):
            layers = value if isinstance(value, tuple) else (value,)
            require_layers(told, layers, model, outline)
        elif outline and name == "heads":
            require_heads(told, [Head(*one) for one in value], model, outline)
