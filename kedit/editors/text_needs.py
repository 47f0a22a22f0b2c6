"""What editors read of texts: as many tokens as the statistics of their keys are taken over."""

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
    """Of the files among their texts.

    Args:
        specs: of editors, each with the side that it edits.
        text, tokens_per_dim: for editors that have none (`kedit.studies.prepare.prepare`).
    """
    for spec, side in specs:
        for one in parts_of(make_editor(spec, model, side)):  # pyright: ignore[reportArgumentType]
            if not isinstance(one, Sparing) or one.moments:
                continue
            source, option = (one.text, "text=") if one.text else (text, "--text ")
            if kind_of(source) != "file":
                continue
            widest = max(sum(_width(site, outline) for site in group) for group in one.groups)
            yield TextNeed(
                f"{option}{source}",
                Path(source),
                one.n_tokens or tokens_per_dim * widest,
                f"{shortened(spec)}, whose keys have {widest:,} numbers,",
                "fewer n_tokens" if one.n_tokens else "fewer --tokens-per-dim",
            )


def _width(site: WriteSite, outline: Outline) -> int:
    """Numbers of a site's key."""
    return outline.d_mlp if site.half == "mlp" else outline.n_heads * outline.d_head
