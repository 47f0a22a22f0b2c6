"""What an editor keeps, against what it gains."""

from typing import NamedTuple

from kedit.stats import Interval


class FrontierPoint(NamedTuple):
    """Where an editor lies: shares of what was kept, and of what was gained."""

    locality: Interval
    generalisation: Interval
