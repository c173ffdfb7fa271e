"""The ledger's entries: which data key they speak of, and the mark that they hold as JSON."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.keys import LEDGER
from bridge.model import Mark


class Word(NamedTuple):
    """What the ledger says of one key. It proves who wrote the entry while both have one revision (design, rule 5).

    `mark` None: written by a bridge whose format we cannot read, hence a copy of we know not what.
    """

    revision: int
    mark: Mark | None


_FORMAT = b'{"v":1,'  # the version of the format comes first in the JSON object, then the mark's own fields
_DECODER = msgspec.json.Decoder(Mark)
_ENCODER = msgspec.json.Encoder()
_HEAD = len(LEDGER)


def key_of(data: bytes) -> bytes:
    """The ledger key of a data key."""
    return LEDGER + data


def data_of(key: bytes) -> bytes:
    """The data key that a ledger key speaks of."""
    return key[_HEAD:]


def encode(mark: Mark) -> bytes:
    """The ledger's value."""
    return _FORMAT + _ENCODER.encode(mark)[1:]


def decode(value: bytes) -> Mark | None:
    """The mark; None where its format is not ours to read."""
    try:
        return _DECODER.decode(value) if value.startswith(_FORMAT) else None
    except ValueError:
        return None


def word_of(kv: pb.KeyValue) -> Word:
    """What an entry of the ledger says."""
    return Word(kv.mod_revision, decode(kv.value))
