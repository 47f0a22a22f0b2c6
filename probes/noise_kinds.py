"""Noise rules as they are told: read without torch, before any model is there to measure on."""

import math
from typing import NamedTuple

from kedit.errors import InputError

# of noise: a norm squares what comes of it, and float32 ends at 3e38
LARGEST = 1e12


class NoiseKind(NamedTuple):
    """What a noise rule says.

    Args:
        kind: "s", "m", "u" or "" (a plain deviation).
        number: its size; of "m" the degrees of freedom of Student's t, None for the normal.
        upstream: drawn from the published code's seed.
        substitute: put in the embedding's place.
    """

    kind: str
    number: float | None
    upstream: bool
    substitute: bool


def noise_kind(rule: str) -> NoiseKind:
    """Reads a noise rule (`probes.corrupt.noise_rule` has them all).

    Raises:
        InputError: no such rule, or a number that is no size of noise.
    """
    plain = rule.removesuffix("=")
    upstream, substitute = plain.partition(":")[0] == "upstream", plain != rule
    plain = "s3" if plain == "upstream" else plain.removeprefix("upstream:")
    if plain == "m":
        return NoiseKind("m", None, upstream, substitute)
    kind = plain[:1] if plain[:1] in ("s", "u", "t") else ""
    told = plain.removeprefix(kind)
    try:
        number = float(told or 1) if kind == "s" else float(told)
    except ValueError:
        raise InputError(
            f"noise {rule!r}: one of s3, m, t5, u0.1 or a number is wanted, or upstream: before it"
        ) from None
    if kind == "t" and not 2 < number < math.inf:
        raise InputError(f"noise {rule!r}: more than 2 degrees of freedom are wanted, and finite")
    if kind != "t" and not 0 < number <= LARGEST:
        raise InputError(
            f"noise {rule!r}: a number above 0 and at most {LARGEST:g} is wanted for its size"
        )
    return NoiseKind("m" if kind == "t" else kind, number, upstream, substitute)
