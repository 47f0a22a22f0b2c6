"""Where a fact's relation can be read off the model's states: what linear probes reach."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kedit.stats import Interval


class Decoded(NamedTuple):
    """How well a site tells relations apart, in shares of the facts that were held out.

    Args:
        head: of "z"; None for the other sites.
        accuracy: of the probe for the relation; this and the control with 95 % intervals as rates
            have them (`kedit.stats.rate_interval`), selectivity by the bootstrap.
        control: of the same probe for relations drawn at random, one for each wording.
        selectivity: accuracy - control.
        chance: of always saying the commonest relation.
    """

    site: str
    layer: int
    head: int | None
    accuracy: Interval
    control: Interval
    selectivity: Interval
    chance: float


class Curves(NamedTuple):
    """Accuracy and control of one site, by layer."""

    accuracy: Interval
    control: Interval


def by_layer(found: Sequence[Decoded]) -> Mapping[str, Curves]:
    """The curves of every site but the heads' z."""
    sites: dict[str, list[Decoded]] = {}
    for one in found:
        if one.head is None:
            sites.setdefault(one.site, []).append(one)
    return {
        site: Curves(*(_stacked([getattr(one, name) for one in own]) for name in Curves._fields))
        for site, own in sites.items()
    }


def _stacked(intervals: Sequence[Interval]) -> Interval:
    return Interval(*(np.array(bounds) for bounds in zip(*intervals, strict=True)))
