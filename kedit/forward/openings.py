"""What many prompts open with is to be read once."""

from collections.abc import Sequence

Tokens = tuple[int, ...]
LONGEST_RUN = 128  # prompts that share an opening; a bound on the time to find it


def shared_openings(prompts: Sequence[Tokens]) -> list[tuple[int, list[int]]]:
    """Groups of prompts with the number of tokens that they all open with, to be read once.

    The fewest tokens that two steps can read: of all ways to cut the sorted prompts into runs, the
    one with the smallest sum of each run's opening and its members' tails.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    shared = [0] + [
        _n_shared(prompts[one], prompts[other])
        for one, other in zip(order, order[1:], strict=False)
    ]
    best: list[tuple[int, int, int]] = [(0, 0, 0)]  # tokens read, the run's start, its opening
    for end in range(1, len(order) + 1):
        opening, length = len(prompts[order[end - 1]]) - 1, len(prompts[order[end - 1]])
        choices = [(best[end - 1][0] + length, end - 1, 0)]
        tails = length
        for start in range(end - 2, max(-1, end - 1 - LONGEST_RUN), -1):
            # at least one token of each prompt stays behind the opening
            opening = min(opening, shared[start + 1], len(prompts[order[start]]) - 1)
            tails += len(prompts[order[start]])
            tokens = tails - (end - start - 1) * opening
            choices.append((best[start][0] + tokens, start, opening))
        best.append(min(choices))
    groups, end = [], len(order)
    while end:
        _, start, opening = best[end]
        groups.append((opening, order[start:end]))
        end = start
    return groups


def _n_shared(one: Tokens, other: Tokens) -> int:
    """Tokens that both open with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
