"""What the screens of a traced run kept and missed, as numbers and in words."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments._tables import listed
from experiments._trace import Config

if TYPE_CHECKING:
    from kedit.results.traces import FactTrace


def screened(config: Config, traces: "Mapping[str, Sequence[FactTrace]]") -> list[dict[str, Any]]:
    """What each screened grid kept and missed; nothing without a screen."""
    from probes.screen import quality

    if not config.screen:
        return []
    found = []
    for part, done in traces.items():
        for name in done[0].grids if done else ():
            if done[0].grids[name].screen is not None:
                told = quality(done, name, config.metric, config.seed)
                found.append({"part": part, "grid": name, **listed(told._asdict())})
    return found


def in_words(one: Mapping[str, Any]) -> str:
    """A screened grid, in a line or two."""
    from figures.style import estimate

    mean, low, high = (math.nan if value is None else 100 * value for value in one["recall"])
    return (
        f"Screen, {one['part']} corrupted, {one['grid']}: {one['n_kept']:.0f} and a sample of "
        f"{one['n_sampled']:.0f} of {one['n_cells']:.0f} cells a fact restored; of as many largest "
        f"effects it kept {estimate(mean, low, high)} %; largest missed in the sample "
        f"{one['largest_missed'][0]:.3f}, kept {one['largest_kept'][0]:.3f}; the rest: estimates."
    )
