"""Parses noise rules such as "s3" or "upstream:u0.1", the values of the option --noise.

This module needs neither torch nor a model, so that a command can refuse a wrong rule before it
loads anything. `probes.corrupt.noise_rule` lists the rules and measures their sizes on a model.
"""

import math
from typing import NamedTuple

from kedit.errors import InputError

# largest size of noise: a layer norm squares the noised embedding, and float32 ends at 3e38
LARGEST = 1e12


class NoiseKind(NamedTuple):
    """A parsed noise rule.

    Args:
        kind: "s", "m", "u" or "" (a plain standard deviation). "t5" is "m" with 5 as its number.
        number: the size of the noise; for "m", the degrees of freedom of Student's t distribution,
            or None for the normal distribution.
        upstream: whether the noise is drawn from the published code's seed.
        substitute: whether the noise replaces the embedding instead of being added to it.
    """

    kind: str
    number: float | None
    upstream: bool
    substitute: bool


def noise_kind(rule: str) -> NoiseKind:
    """Parses a noise rule (see `probes.corrupt.noise_rule` for all of them).

    Raises:
        InputError: there is no such rule, or its number is out of range.
    """
    plain = rule.removesuffix("=")
    upstream, substitute = plain.partition(":")[0] == "upstream", plain != rule
    plain = "s3" if plain == "upstream" else plain.removeprefix("upstream:")
    if plain == "m":
        return NoiseKind("m", None, upstream, substitute)
    kind = plain[:1] if plain[:1] in ("s", "u", "t") else ""
    digits = plain.removeprefix(kind)
    try:
        number = float(digits or 1) if kind == "s" else float(digits)
    except ValueError:
        raise InputError(
            f"noise {rule!r}: expected a rule such as s3, m, t5 or u0.1, or a number, perhaps with "
            "upstream: before it"
        ) from None
    if kind == "t" and not 2 < number < math.inf:
        raise InputError(f"noise {rule!r}: the degrees of freedom must be a finite number above 2")
    if kind != "t" and not 0 < number <= LARGEST:
        raise InputError(f"noise {rule!r}: its size must be above 0 and at most {LARGEST:g}")
    return NoiseKind("m" if kind == "t" else kind, number, upstream, substitute)
