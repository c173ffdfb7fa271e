"""The ledger in etcd: an entry for each data key that a bridge wrote, with its mark."""

from __future__ import annotations

from typing import NamedTuple

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.keys import LEDGER, Range
from bridge.model import Mark
from mappings.ledger import decode


class Proof(NamedTuple):
    """What the ledger says of one key. It proves who wrote the entry while both have one revision (safety rule 5).

    `mark` None: written by a bridge whose format we cannot read, hence a copy of we know not what.
    """

    revision: int
    mark: Mark | None


_HEAD = len(LEDGER)


def key_of(data: bytes) -> bytes:
    """The ledger key of a data key."""
    return LEDGER + data


def about(area: Range) -> Range:
    """The ledger's entries about a range of data keys."""
    return Range(LEDGER + area.start, LEDGER + area.end if area.end != b"\0" else Range.below(LEDGER).end)


def data_of(key: bytes) -> bytes:
    """The data key that a ledger key speaks of."""
    return key[_HEAD:]


def proof_of(kv: pb.KeyValue) -> Proof:
    """What an entry of the ledger says."""
    return Proof(kv.mod_revision, decode(kv.value))
