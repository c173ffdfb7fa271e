"""Values that many instances have in common, held once: metadata, and what only one convention understands."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from bridge.model import Instance

EMPTY: dict[str, str] = {}
NULL = msgspec.Raw(b"null")

_STRINGS = msgspec.json.Decoder(dict[str, str] | None)
_KEPT = TypeVar("_KEPT", bound=msgspec.Struct)


_TEXTS: dict[str, str] = {}
_MOST = 8192


def text(text: str) -> str:
    """One object for equal texts, as long as they are frequent.

    `sys.intern` has a place also for those that never recur, and an lru_cache takes twice as long.
    """
    if len(_TEXTS) > _MOST:
        _TEXTS.clear()
    return _TEXTS.setdefault(text, text)


@lru_cache(maxsize=1024)  # lists come in the order of services, whose instances are alike
def strings(raw: bytes) -> dict[str, str]:
    """A JSON object of texts, or null. Raises ValueError where any value is something else."""
    return fresh(raw) or EMPTY


def fresh(raw: bytes) -> dict[str, str]:
    """The same as a dictionary of the caller's own."""
    found: dict[str, str] | None = _STRINGS.decode(raw)
    if not found:
        return {}
    if len(_TEXTS) > _MOST:
        _TEXTS.clear()
    same = _TEXTS.setdefault
    for key, value in found.items():  # msgspec shares the keys itself
        found[key] = same(value, value)
    return found


def load(instance: Instance, convention: str, decoder: msgspec.json.Decoder[_KEPT], default: _KEPT) -> _KEPT:
    """What that convention alone understands of the instance; the default where there is nothing readable."""
    text = instance.native.get(convention)
    if text is None:
        return default
    kept: _KEPT = parse(decoder, text, default)
    return kept


@lru_cache(maxsize=8192)
def parse(decoder: msgspec.json.Decoder[Any], text: str, default: Any) -> Any:
    """The text decoded, the default where it cannot be."""
    try:
        return decoder.decode(text)
    except ValueError:
        return default


@lru_cache(maxsize=8192)
def dump(convention: str, kept: Any) -> dict[str, str]:
    """The inverse, for `Instance.native`; of a frozen struct whose defaults are left out: nothing for a default one."""
    text = msgspec.json.encode(kept)
    return {convention: text.decode()} if text != b"{}" else EMPTY
