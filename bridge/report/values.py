"""An instance as people and runbooks read it: plain JSON, the fields that they compare, a hash."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from bridge.model import Instance

Row = dict[str, Any]

FIELDS = tuple(field for field in Instance.__struct_fields__ if field not in ("id", "native"))  # what people compare


def plain(instance: Instance | None) -> Row | None:
    """An instance as JSON has it, without what only one convention understands."""
    if instance is None:
        return None
    row: Row = msgspec.to_builtins(instance)
    row.pop("native", None)
    return row


def value_hash(instance: Instance) -> str:
    """The same for equal instances, also in another process."""
    # A tuple: whether a struct leaves out a default depends on which of two equal floats it holds.
    fields = msgspec.json.encode(msgspec.structs.astuple(instance), order="deterministic")
    return hashlib.blake2b(fields, digest_size=12).hexdigest()
