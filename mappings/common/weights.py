"""Weights: relative numbers in the model, whole numbers with a default of their own in most conventions."""

from __future__ import annotations

import math
import re

from bridge.errors import Rejected

# Java's and Go's readers keep them in 32 bits or add them up in 64.
_MOST = 2**31 - 1


def write(weight: float, default: int, least: int, most: int = _MOST) -> int:
    """The whole number nearest to `weight` times the convention's default, at least `least`. Raises Rejected."""
    if not math.isfinite(weight) or weight < 0:
        raise Rejected(f"{weight} is no weight")
    number = max(least, round(weight * default))
    if number > most:
        raise Rejected(f"weight {weight} is more than any reader can add up")
    return number


_NUMBER = re.compile(r"[+-]?[0-9]{1,19}").fullmatch


def parse(text: str, bits: int = 32) -> int | None:
    """The number as Java parses it, in so many bits; None: it throws."""
    number = int(text) if _NUMBER(text) else 1 << bits
    return number if -(1 << bits - 1) <= number < 1 << bits - 1 else None


def read(number: int, default: int) -> float:
    """The inverse, exact for all that `write` gives."""
    return number / default
