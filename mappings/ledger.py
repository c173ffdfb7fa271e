"""Our mark as JSON: what a ledger entry holds in a store that keeps its ledger beside the records, read and written."""

from __future__ import annotations

import msgspec

from bridge.model import LEDGER_FORMAT, Mark

# The version of the format comes first in the JSON object, then the mark's own fields.
_FORMAT = b'{"v":%d,' % LEDGER_FORMAT
_DECODER = msgspec.json.Decoder(Mark)
_ENCODER = msgspec.json.Encoder()

UNREADABLE = "its ledger entry has a format that this version cannot read"


def encode(mark: Mark) -> bytes:
    """The value of a ledger entry."""
    return _FORMAT + _ENCODER.encode(mark)[1:]


def decode(value: bytes) -> Mark | None:
    """The mark; None where a bridge wrote it in a format that this version cannot read."""
    try:
        return _DECODER.decode(value) if value.startswith(_FORMAT) else None
    except ValueError:
        return None
