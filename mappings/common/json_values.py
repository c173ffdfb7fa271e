"""JSON objects of any values as the model's texts, and back: what is no text is kept as compact JSON."""

from __future__ import annotations

from sys import intern

import msgspec

from mappings.common import interning

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)
_TEXT = msgspec.json.Decoder(str)


def read(text: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    """The texts by key, and the keys of those that stand for something else. Raises ValueError: not an object."""
    try:
        return interning.strings(text), ()
    except ValueError:
        found = {intern(key): bytes(value) for key, value in _OBJECT.decode(text).items()}
    other = tuple([key for key, value in found.items() if value[:1] != b'"'])
    return {key: compact(value) if key in other else _TEXT.decode(value) for key, value in found.items()}, other


def write(metadata: dict[str, str], other: tuple[str, ...]) -> dict[str, str | msgspec.Raw]:
    """The object again. A text under `other` that is no longer such JSON is written as a text."""
    return {key: _value(text) if key in other else text for key, text in metadata.items()}


def compact(text: bytes) -> str:
    """The same JSON without blanks, its numbers and escapes as they are. Raises ValueError: not JSON."""
    return msgspec.json.format(text, indent=-1).decode()


def raw(text: str) -> msgspec.Raw | None:
    """The text as JSON to be written as it is; None: it is not JSON."""
    try:
        _RAW.decode(text)
    except ValueError:
        return None
    return msgspec.Raw(compact(text.encode()))


def _value(text: str) -> str | msgspec.Raw:
    found = raw(text) if text.lstrip()[:1] != '"' else None
    return text if found is None else found
