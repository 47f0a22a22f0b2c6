"""Accuracies of linear probes that decode a fact's relation from activations."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from kedit.stats import Interval


class Decoded(NamedTuple):
    """How well a probe at one site decodes the relation, as fractions of the held-out facts.

    Args:
        site: the site whose activations are decoded.
        layer: layer of the site.
        head: the head, for "z"; None for the other sites.
        accuracy: accuracy of the probe, with Wilson's 95 % interval (`kedit.stats.rate_interval`).
        control: accuracy of the same probe on the control task, in which each wording has a
            relation that is drawn at random; with Wilson's 95 % interval.
        selectivity: accuracy - control, with a 95 % bootstrap interval.
        chance: accuracy of always predicting the most frequent relation.
    """

    site: str
    layer: int
    head: int | None
    accuracy: Interval
    control: Interval
    selectivity: Interval
    chance: float


class Curves(NamedTuple):
    """Accuracy of one site's probes and of their control task, by layer."""

    accuracy: Interval
    control: Interval


def by_layer(found: Sequence[Decoded]) -> Mapping[str, Curves]:
    """The curves of each site, without those of single heads."""
    sites: dict[str, list[Decoded]] = {}
    for probe in found:
        if probe.head is None:
            sites.setdefault(probe.site, []).append(probe)
    return {
        site: Curves(
            *(_stacked([getattr(probe, name) for probe in probes]) for name in Curves._fields)
        )
        for site, probes in sites.items()
    }


def _stacked(intervals: Sequence[Interval]) -> Interval:
    """One interval of arrays from an interval for each layer."""
    return Interval(*(np.array(bounds) for bounds in zip(*intervals, strict=True)))
