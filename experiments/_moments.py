"""What text the editors are to spare, read once for all of them, with progress."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kedit.progress import progress


if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

    from kedit.edit import Editor
    from kedit.writes import WriteSite


def read_moments(model: "HookedTransformer", editors: "Sequence[Editor]") -> None:
    """Reads what `editor.on(model)` would read for each of them, so that it finds it in the cache.

    One pass over each text serves all the editors that are to spare it.
    """
    from kedit.editors.sides import Sides
    from kedit.moments import moments
    from kedit.spared import Sparing

    needed: dict[tuple[str, int, int], list[Sequence[WriteSite]]] = {}
    parts = (one.parts if isinstance(one, Sides) else (one,) for one in editors)
    for one in itertools.chain.from_iterable(parts):
        if isinstance(one, Sparing) and not one.moments:
            needed.setdefault((one.text, one.n_tokens, one.seed), []).extend(one.groups)
    with progress("tokens") as bars:
        for (text, n_tokens, seed), groups in needed.items():
            bar = bars.add_task("reading text", visible=False, total=None)
            moments(
                model, groups, text, n_tokens, seed,
                progress=lambda done, total, bar=bar: bars.update(
                    bar, completed=done, total=total, visible=True
                ),
            )  # fmt: skip
