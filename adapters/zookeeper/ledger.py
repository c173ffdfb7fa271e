"""The ledger: a tree that mirrors the entries, and the mark that each of its nodes holds as JSON."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from bridge.model import Mark

ROOT = "/isthmus"
LEDGER = "/isthmus/ledger"  # below it, an entry's own path
IDENTITY = "/isthmus/identity"
LOCK = "/isthmus/lock"
NOTE = "/isthmus/desk"

_FORMAT = b'{"v":1,'  # the version of the format comes first in the JSON object, then the mark's own fields
_DECODER = msgspec.json.Decoder(Mark)
_ENCODER = msgspec.json.Encoder()


def lock_of(bridge: str, layout: str, root: str) -> str:
    """The node below which those who want the lock of one bridge id, for one destination, have theirs."""
    return f"{LOCK}/{quote(bridge, safe='')}/{layout}:{quote(root, safe='')}"


def note_of(bridge: str, layout: str, root: str) -> str:
    """The node of the note that the daemons of one bridge id keep for one destination."""
    return f"{NOTE}/{quote(bridge, safe='')}/{layout}:{quote(root, safe='')}"


def encode(mark: Mark) -> bytes:
    """A ledger node's value."""
    return _FORMAT + _ENCODER.encode(mark)[1:]


def decode(value: bytes) -> Mark | None:
    """The mark; None where its format is not ours to read."""
    try:
        return _DECODER.decode(value) if value.startswith(_FORMAT) else None
    except ValueError:
        return None
