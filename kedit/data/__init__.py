"""Datasets, one a file; `load_facts` finds out which one it is given."""

from collections.abc import Sequence
from pathlib import Path

from kedit import toy
from kedit.data import builtin, counterfact, known, own
from kedit.data.read import records
from kedit.errors import RecordError
from kedit.facts import Fact


def load_facts(source: str | Path) -> Sequence[Fact]:
    """Facts of "builtin", "toy", or a file: known_1000.json, CounterFact, or one's own JSON Lines.

    Raises:
        RecordError: no such file, no records, or a record that breaks its schema.
    """
    if source == "builtin":
        return builtin.load()
    if source == "toy":
        return toy.facts()
    first = next(iter(records(source)), None)
    if first is None:
        raise RecordError(f"{source}: it holds no records")
    if "requested_rewrite" in first[1]:
        return counterfact.load(source)
    if "attribute" in first[1]:
        return known.load(source)
    return own.load(source)
