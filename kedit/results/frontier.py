"""The locality and generalisation of an editor, as one point of a figure."""

from typing import NamedTuple

from kedit.stats import Interval


class FrontierPoint(NamedTuple):
    """Locality (mean of the kept shares) and generalisation (mean of the gained shares)."""

    locality: Interval
    generalisation: Interval
