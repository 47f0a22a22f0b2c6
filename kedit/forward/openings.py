"""Groups prompts by their shared openings, so that each opening is read by the model only once.

Attention is causal, so the keys and values of an opening do not depend on the tokens after it.
Prompts can therefore be read in two forwards: first the openings, one row per group, and then the
tails of all prompts, each after the opening of its group.
"""

from collections.abc import Sequence

Tokens = tuple[int, ...]
MAX_GROUP = 128  # most prompts in a group: this bounds the time of the search


def shared_openings(prompts: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Groups prompts so that reading each group's opening once leaves the fewest tokens to read.

    In sorted order, prompts with a common opening are adjacent. So a grouping is a way to cut the
    sorted list into runs, and a run of n prompts with a common opening of k tokens costs

        k + the sum of its members' (length - k)   =   the sum of its lengths - (n - 1) k

    A longer run shares its opening with more prompts, but what all of them share is shorter. For
    example, with letters as tokens:

        sorted prompts       one run, k = 1: 14 - 3 · 1 = 11     two runs: (10 - 4) + (4 - 1) = 9
        0  a b c d e         a | b c d e                         a b c d | e
        1  a b c d f           | b c d f                                 | f
        2  a x                 | x                               a | x
        3  a y                 | y                                 | y

    A dynamic program goes through the sorted list from left to right. best[end] is the cheapest way
    to cut the first `end` prompts into runs. Its last run begins at some `start`, and the prompts
    before `start` are cut in the cheapest way, which is known already:

        prompts    0 ... start - 1   |   start ... end - 1
        tokens     best[start]       +   cost of this run       (the least over all `start`)

    Args:
        prompts: tokens of each prompt.

    Returns:
        For each group, the length of its opening in tokens and the indices of its prompts.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    # shared[i]: number of tokens that prompts i - 1 and i of the sorted list share
    shared = [0] + [
        _n_shared(prompts[a], prompts[b]) for a, b in zip(order, order[1:], strict=False)
    ]
    # for each `end`: tokens to read, start of the last run, length of this run's opening
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        opening, length = len(prompts[order[end - 1]]) - 1, len(prompts[order[end - 1]])
        choices = [(best[end - 1][0] + length, end - 1, 0)]  # the last prompt alone
        lengths = length
        for start in range(end - 2, max(-1, end - 1 - MAX_GROUP), -1):
            # What a sorted run shares is the least that two neighbours in it share. At least one
            # token of each prompt stays out of the opening: its residual predicts the answer.
            opening = min(opening, shared[start + 1], len(prompts[order[start]]) - 1)
            lengths += len(prompts[order[start]])
            tokens = lengths - (end - start - 1) * opening
            choices.append((best[start][0] + tokens, start, opening))
        best.append(min(choices))
    # from the end back: each entry says where its last run begins, and so where the one before ends
    groups, end = [], len(order)
    while end:
        _, start, opening = best[end]
        groups.append((opening, order[start:end]))
        end = start
    return groups


def _n_shared(first: Tokens, second: Tokens) -> int:
    """The number of tokens with which both begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))
