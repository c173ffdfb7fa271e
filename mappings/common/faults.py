"""Why a record cannot be read, in words for people instead of the decoder's own."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from bridge.errors import Undecodable

T = TypeVar("T")

TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
# What msgspec says, with the place last (` - at `$.payload.port``), and what is said instead; the first that fits.
SAID = tuple(
    (re.compile(rf"{pattern}(?: - at `\$\.?(?P<at>.*)`)?"), words)
    for pattern, words in (
        (r"JSON is malformed: (?P<why>.*?)", "is not JSON ({why})"),
        (r"Input data was truncated", "is not JSON (it ends too early)"),
        (r"Expected `(?P<wanted>[^`]+)`, got `(?P<found>[^`]+)`", "is {found}; should be {wanted}"),
        (r"Object missing required field `(?P<field>[^`]+)`", "has no {field}"),
    )
)


def unreadable(what: str, error: Exception) -> Undecodable:
    """The error of a record that is not `what` it should be."""
    return Undecodable(f"{what}: {said(error)}")


def part(name: str, decoder: msgspec.json.Decoder[T], value: bytes | msgspec.Raw) -> T:
    """What a part of a record holds. Raises ValueError, which names the part."""
    try:
        return decoder.decode(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {name}: {said(error)}") from None


def said(error: Exception) -> str:
    """What was wrong: `payload.port is text; should be a whole number`, `it has no @class`. Our own words stay."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    for pattern, words in SAID:
        if (found := pattern.fullmatch(str(error))) is not None:
            parts = found.groupdict("")
            parts |= {key: _typed(parts[key]) for key in ("wanted", "found") if key in parts}
            return f"{parts.pop('at') or 'it'} {words.format(**parts)}"
    return str(error)


def _typed(names: str) -> str:
    """msgspec's names of types; `null` is left out where something else is wanted, too."""
    several = [name for name in names.split(" | ") if name != "null"] or ["null"]
    return " or ".join(TYPES.get(name, name) for name in several)
