"""What text the editors are to spare, read once for all of them."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.editing.edit import Editor
    from kedit.editing.write_sites import WriteSite


def read_moments(model: "HookedTransformer", editors: "Sequence[Editor]") -> None:
    """Reads what `editor.on(model)` would read for each of them, so that it finds it in the cache.

    One pass over each text serves all the editors that are to spare it.
    """
    from kedit.editing.moments import moments
    from kedit.editing.spared import Sparing
    from kedit.editors.sides import parts_of

    needed: dict[tuple[str, int, int], list[Sequence[WriteSite]]] = {}
    for one in itertools.chain.from_iterable(map(parts_of, editors)):
        if isinstance(one, Sparing) and not one.moments:
            needed.setdefault((one.text, one.n_tokens, one.seed), []).extend(one.groups)
    for (text, n_tokens, seed), groups in needed.items():
        moments(model, groups, text, n_tokens, seed)


def with_tokens(model: "HookedTransformer", editor: "Editor", tokens_a_key: int) -> "Editor":
    """The editor, sparing text of so many tokens for each number of its longest key.

    One that was told a number of tokens, or spares no text, stays as it is.
    """
    from dataclasses import replace

    from kedit.editing.spared import Sparing
    from kedit.editors.sides import with_each

    def told(one: "Editor") -> "Editor":
        if not isinstance(one, Sparing) or one.moments or one.n_tokens:
            return one
        longest = max(sum(site.d_key(model) for site in group) for group in one.groups)
        return replace(one, n_tokens=tokens_a_key * longest)  # pyright: ignore

    return with_each(editor, told)
