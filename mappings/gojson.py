"""JSON as Go's encoding/json writes it, so that stock readers and writers cannot tell ours from theirs."""

from __future__ import annotations

from typing import Any

import msgspec

from bridge.errors import Rejected

# Struct fields in declaration order, map keys by their bytes (code point order is UTF-8 byte order).
_ENCODER = msgspec.json.Encoder(order="deterministic")

# These five stand in JSON inside strings only (encoding/json, HTML escaping).
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_BEYOND_ASCII = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))


def encode(record: Any) -> bytes:
    """The record without blanks. Raises Rejected where a text is not valid Unicode."""
    try:
        text = _ENCODER.encode(record)
    except UnicodeEncodeError as error:
        raise Rejected(f"not valid Unicode: {error}") from None
    for plain, escaped in _ESCAPES if text.isascii() else _ESCAPES + _BEYOND_ASCII:
        text = text.replace(plain, escaped)
    return text
