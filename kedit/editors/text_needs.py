"""How many tokens of text each editor needs for the moments of its keys."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kedit.data.named import kind_of
from kedit.data.text_length import TextNeed
from kedit.editing.spared import Sparing
from kedit.editing.write_sites import WriteSite
from kedit.editors.registry import make_editor
from kedit.editors.sides import parts_of
from kedit.editors.specs import shortened
from kedit.models.outline import Outline


def text_needs(
    specs: Iterable[tuple[str, str]], model: str, outline: Outline, text: str, tokens_per_dim: int
) -> Iterator[TextNeed]:
    """Yields the editors' needs of text, for texts that are files.

    Args:
        specs: specs of editors, each with the side that it edits.
        model: name of the model.
        outline: of the model.
        text, tokens_per_dim: for editors that don't set their own (see
            `kedit.studies.prepare.prepare`).
    """
    for spec, side in specs:
        parts = parts_of(make_editor(spec, model, side))  # pyright: ignore[reportArgumentType]
        for editor in parts:
            if not isinstance(editor, Sparing) or editor.moments:
                continue
            source, option = (editor.text, "text=") if editor.text else (text, "--text ")
            if kind_of(source) != "file":
                continue
            widest = max(sum(_width(site, outline) for site in group) for group in editor.groups)
            yield TextNeed(
                f"{option}{source}",
                Path(source),
                editor.n_tokens or tokens_per_dim * widest,
                f"{shortened(spec)}, whose keys have {widest:,} numbers,",
                "fewer n_tokens" if editor.n_tokens else "fewer --tokens-per-dim",
            )


def _width(site: WriteSite, outline: Outline) -> int:
    """Returns the length of a site's key."""
    return outline.d_mlp if site.half == "mlp" else outline.n_heads * outline.d_head
