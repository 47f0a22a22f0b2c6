"""Whether a text is long enough for what is to be read of it: by its bytes before the weights are
read, by its tokens before anything else is done with the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments._early import editors_of

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.editing.write_sites import WriteSite
    from kedit.models.outline import Outline

PACKED = (".xz", ".gz")  # files that hold more than their bytes
PLENTY = 16  # bytes a token: a text with more of them need not be counted


class Need(NamedTuple):
    """What is to be read of a file.

    Args:
        option: as it was told, for the message.
        n_tokens: that are read at least.
        why: who reads them.
        mend: what else than a longer text would do; "" for nothing.
    """

    option: str
    file: Path
    n_tokens: int
    why: str
    mend: str


def require_bytes(config: Any) -> None:
    """Raises InputError for a text with fewer bytes than tokens are wanted."""
    from kedit.errors import InputError
    from kedit.models.outline import outline_of

    outline = outline_of(config.model)
    for need in _longest_first(config, outline) if outline else ():
        n_bytes = need.file.stat().st_size
        if n_bytes < need.n_tokens and need.file.suffix not in PACKED:
            raise InputError(_told(need, f"{n_bytes:,} bytes, and so no more tokens than that"))


def require_tokens(config: Any, model: "HookedTransformer") -> None:
    """Raises InputError for a text with fewer tokens than are wanted."""
    from kedit.data.corpus import Corpus
    from kedit.errors import InputError
    from kedit.models.outline import Outline

    cfg = model.cfg
    outline = Outline(cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_head, cfg.d_mlp or 0, cfg.n_ctx)
    for need in _longest_first(config, outline):
        if need.file.stat().st_size >= PLENTY * need.n_tokens:
            continue
        n_tokens = 0
        for ids in Corpus(str(need.file)).token_ids(model):
            n_tokens += len(ids)
            if n_tokens >= need.n_tokens:
                break
        else:
            raise InputError(_told(need, f"{n_tokens:,} tokens"))


def _told(need: Need, found: str) -> str:
    return (
        f"{need.option}: it has {found}, and {need.why} reads {need.n_tokens:,}: a longer text is "
        f"wanted{need.mend and f', or {need.mend}'}"
    )


def _longest_first(config: Any, outline: "Outline") -> list[Need]:
    """So that a text that is long enough for the first need is so for all others of it."""
    return sorted(_needs(config, outline), key=lambda need: -need.n_tokens)


def _needs(config: Any, outline: "Outline") -> Iterator[Need]:
    """What a run reads of the files that its options name."""
    from kedit.results.before_after import WINDOW as PRICE
    from kedit.scoring.drift import WINDOW
    from kedit.studies.mend_practice import EXCERPT

    text, held_out = getattr(config, "text", ""), getattr(config, "held_out", "")
    editors = list(editors_of(config))
    window = getattr(config, "window", PRICE) if editors else WINDOW
    if editors:
        yield from _of_editors(config, editors, outline)
        yield from _whole_chunk("--held-out", held_out, window, outline, "a chunk of perplexity's")
    elif held_out != "" and isinstance(held_out, int):  # train_mend's number of requests
        yield from _whole_chunk("--text", text, EXCERPT, outline, "an excerpt")
    else:
        yield from _whole_chunk("--text", text, window, outline, "a chunk of perplexity's")


def _whole_chunk(
    option: str, source: str, window: int, outline: "Outline", why: str
) -> Iterator[Need]:
    if _is_file(source):
        yield Need(f"{option} {source}", Path(source), min(window, outline.n_ctx - 1), why, "")


def _of_editors(config: Any, editors: list[tuple[str, str]], outline: "Outline") -> Iterator[Need]:
    """What statistics of the keys are taken over."""
    from kedit.editing.spared import Sparing
    from kedit.editors.registry import make_editor
    from kedit.editors.sides import parts_of
    from kedit.editors.specs import shortened

    for told, side in editors:
        for one in parts_of(make_editor(told, config.model, side)):  # pyright: ignore[reportArgumentType]
            if not isinstance(one, Sparing) or one.moments:
                continue
            source, option = (one.text, "text=") if one.text else (config.text, "--text ")
            if not _is_file(source):
                continue
            widest = max(sum(_width(site, outline) for site in group) for group in one.groups)
            mend = "fewer n_tokens" if one.n_tokens else "fewer --tokens-a-key"
            why = f"{shortened(told)}, whose keys have {widest:,} numbers,"
            n_tokens = one.n_tokens or config.tokens_a_key * widest
            yield Need(f"{option}{source}", Path(source), n_tokens, why, mend)


def _width(site: "WriteSite", outline: "Outline") -> int:
    """Numbers of a site's key."""
    return outline.d_mlp if site.half == "mlp" else outline.n_heads * outline.d_head


def _is_file(source: str) -> bool:
    try:
        return bool(source) and Path(source).is_file()
    except (OSError, ValueError):
        return False
