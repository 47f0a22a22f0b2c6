"""Which records of many: some of every kind, the same ones for the same seed."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

Record = TypeVar("Record")


def in_turn(groups: Iterable[Sequence[Record]], seed: int) -> list[Record]:
    """One record of every group in turn; groups and the records in them are drawn by `seed`."""
    draw = random.Random(seed)
    queues = [list(group) for group in groups]
    for queue in queues:
        draw.shuffle(queue)
    draw.shuffle(queues)
    turns = range(max(map(len, queues), default=0))
    return [queue[turn] for turn in turns for queue in queues if turn < len(queue)]
