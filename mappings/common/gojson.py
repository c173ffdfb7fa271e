"""JSON as Go's encoding/json writes and reads it, so that stock readers and writers cannot tell ours from theirs."""

from __future__ import annotations

import re
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec

from bridge.errors import Rejected
from mappings.common import interning
from mappings.common.faults import said

# Struct fields in declaration order, map keys by their bytes (code point order is UTF-8 byte order).
_ENCODER = msgspec.json.Encoder(order="deterministic")

# These five are found in JSON inside strings only (encoding/json, HTML escaping).
_ESCAPES = ((b"<", b"\\u003c"), (b">", b"\\u003e"), (b"&", b"\\u0026"))
_BEYOND_ASCII = (("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str | None)
_NUMBER = msgspec.json.Decoder(int | None)
_SURROGATES = re.compile(rb"\\\\|\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u[dD][89a-fA-F]..")

T = TypeVar("T", bound=msgspec.Struct)


def encode(record: Any) -> bytes:
    """The record without blanks. Raises Rejected where a text is not valid Unicode."""
    try:
        text = _ENCODER.encode(record)
    except UnicodeEncodeError as error:
        raise Rejected(f"not valid Unicode: {error}") from None
    for plain, escaped in _ESCAPES if text.isascii() else _ESCAPES + _BEYOND_ASCII:
        text = text.replace(plain, escaped)
    return text


class Reader(Generic[T]):
    """Reads a struct of texts, whole numbers, Raw, and lists of texts or of such structs, as Go does (seen with 1.26).

    Names of fields match whatever their case; null is the field's zero value; what is not Unicode becomes U+FFFD.
    A value of another type is an error; `lenient`, for readers that ignore that error, makes it the zero value.
    The kind must forbid unknown fields: a record as stock writers make it is then read in one step.
    """

    def __init__(self, kind: type[T], *, lenient: bool = False) -> None:
        self._kind = kind
        self._quick = msgspec.json.Decoder(kind)
        self._lenient = lenient

    def decode(self, value: bytes) -> T:
        """The record. Raises ValueError, whose text says what is wrong, or RecursionError."""
        try:
            return self._quick.decode(value)
        except ValueError:
            return _struct(self._kind, unicode(value), self._lenient)


def strings(raw: bytes, *, lenient: bool = False) -> dict[str, str]:
    """A JSON object of texts, or null; a null in it is the empty text. Raises ValueError as `Reader` does."""
    try:
        return interning.strings(raw)
    except ValueError:
        return {key: _text_of(key, bytes(value), lenient) for key, value in _object(unicode(raw)).items()}


def unicode(value: bytes) -> bytes:
    """The JSON with U+FFFD for whatever is not Unicode: bytes that are no UTF-8, and halves of surrogate pairs."""
    value = value.decode(errors="replace").encode()
    if b"\\u" not in value:
        return value
    return _SURROGATES.sub(lambda found: b"\\ufffd" if len(found[0]) == 6 else found[0], value)


def _struct(kind: type[T], value: bytes, lenient: bool) -> T:
    fields = {field.encode_name.lower(): field for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for key, raw in _object(value).items():
        field = fields.get(key.lower())
        if field is None or raw == b"null":
            continue
        try:
            found[field.name] = _value(field.type, bytes(raw), lenient)
        except ValueError as error:
            if not lenient:
                raise ValueError(f"{field.encode_name}: {said(error)}") from None
    return kind(**found)


def _object(value: bytes) -> dict[str, msgspec.Raw]:
    if not value.strip():
        raise ValueError("it is empty")
    try:
        return _OBJECT.decode(value)
    except ValueError as error:
        raise ValueError(said(error)) from None


def _value(kind: Any, raw: bytes, lenient: bool) -> Any:
    if kind is msgspec.Raw:
        return msgspec.Raw(raw)
    if kind is str:
        return _text(raw, lenient)
    if kind is int:
        return _NUMBER.decode(raw) or 0
    item = next(get_args(one)[0] for one in get_args(kind) if get_origin(one) is list)
    items = [bytes(one) for one in _ARRAY.decode(raw)]
    if item is str:
        return [_text(one, lenient) for one in items]
    return [_struct(item, b"{}" if one == b"null" else one, lenient) for one in items]


def _text_of(key: str, raw: bytes, lenient: bool) -> str:
    try:
        return _text(raw, lenient)
    except ValueError as error:
        raise ValueError(f"the value of {key!r}: {said(error)}") from None


def _text(raw: bytes, lenient: bool) -> str:
    if lenient and raw[:1] != b'"':
        return ""
    return _TEXT.decode(raw) or ""
