"""Changes as etcd transactions: what is compared, what is written, and who stood in the way; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from adapters.common.changes import judge, portions
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import Space
from adapters.etcd.lock import Fence
from bridge.adapter import Change
from bridge.errors import Rejected
from mappings.ledger import encode

CHANGES = 60  # in one transaction: two operations each and the lock's, of the 128 that etcd allows (--max-txn-ops)
BYTES = 1 << 20  # of keys and values in one transaction, below the 1.5 MiB that etcd allows (--max-request-bytes)
GONE = 0  # the revision of a key that does not exist


class Step(NamedTuple):
    """One change to be sent: what to write, and the revisions that both keys must have until then (None: any)."""

    change: Change
    key: bytes
    expected: tuple[int | None, int | None]  # of the entry, of its ledger word
    value: bytes | None = None
    word: bytes | None = None
    lease: int = 0

    @property
    def size(self) -> int:
        """Bytes on the wire, about."""
        return 3 * len(self.key) + len(self.value or b"") + len(self.word or b"")


def step(space: Space, bridge: str, change: Change, lease: int) -> Step:
    """Raises Rejected: the value must not be written. Conflict: what stands there was not written by this bridge."""
    judge(bridge, change)
    key, before = space.key(change.service, change.id), change.before
    if change.forget:
        revision = before.version if before is not None else None
        return Step(change, key, (revision if before is not None and before.mark else None, revision))
    # A create revision would not do: stock clients rewrite a key and keep it (safety rule 5).
    expected: tuple[int, int | None] = (GONE, None)
    if before is not None:
        expected = (before.version, before.version if before.mark else None)
    if change.after is None or change.mark is None:
        return Step(change, key, expected)
    path, value = space.layout.encode(change.service, change.after)
    if (space.prefix + path).encode() != key:
        raise Rejected(f"the record belongs under {path}, not under {change.service}/{change.id}")
    if not space.has(key):
        raise Rejected(f"{key.decode()} is where another layout or the ledger is")
    return Step(change, key, expected, value, encode(change.mark), lease)


def in_portions(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps by transaction, in their order."""
    return portions(steps, lambda step: step.size, CHANGES, BYTES)


def transaction(fence: Fence, steps: Iterable[Step]) -> pb.TxnRequest:
    """All or nothing; where it comes to nothing, `looks` finds out why."""
    # add() and assignment: with nested constructors, which copy, building it costs four times as much.
    request = pb.TxnRequest()
    compare, operation = request.compare.add, request.success.add
    lock = compare()
    lock.target, lock.key, lock.create_revision = pb.Compare.CREATE, fence.key, fence.revision
    for change, key, (entry, said), value, word, lease in steps:
        ledger_key = ledger.key_of(key)
        if entry is not None:
            _stands(compare(), key, entry)
        if said is not None:
            _stands(compare(), ledger_key, said)
        if value is not None:
            _put(operation().request_put, key, value, lease)
            _put(operation().request_put, ledger_key, word or b"", lease)
        else:
            if not change.forget:
                operation().request_delete_range.key = key
            operation().request_delete_range.key = ledger_key
    return request


def looks(fence: Fence, steps: Iterable[Step]) -> pb.TxnRequest:
    """Reads what a transaction compared. It is not asked for in the transaction itself: most come to something."""
    request = pb.TxnRequest()
    for key in (fence.key, *(key for each in steps for key in (each.key, ledger.key_of(each.key)))):
        look = request.success.add().request_range
        look.key, look.keys_only = key, True
    return request


def noting(key: bytes, content: bytes, revision: int, fence: Fence | None) -> pb.TxnRequest:
    """Writes a note over the one of that revision; as the writer, where there is a fence."""
    request = pb.TxnRequest(compare=[pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)])
    if fence is not None:
        lock = request.compare.add()
        lock.target, lock.key, lock.create_revision = pb.Compare.CREATE, fence.key, fence.revision
    _put(request.success.add().request_put, key, content, 0)
    return request


def removing(key: bytes, fence: Fence) -> pb.TxnRequest:
    """Deletes a key as the writer, whatever is there."""
    held = pb.Compare(target=pb.Compare.CREATE, key=fence.key, create_revision=fence.revision)
    return pb.TxnRequest(compare=[held], success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))])


def dropping(key: bytes, revision: int) -> pb.TxnRequest:
    """Deletes a key that has that revision."""
    stands = pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)
    return pb.TxnRequest(compare=[stands], success=[pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))])


def is_held(fence: Fence, answer: pb.TxnResponse) -> bool:
    """Whether the lock is ours, and so was when the transaction came to nothing."""
    found = answer.responses[0].response_range.kvs
    return bool(found) and found[0].create_revision == fence.revision


def stood(steps: Sequence[Step], answer: pb.TxnResponse) -> list[bool]:
    """Which steps could be made, of a transaction that came to nothing."""
    revisions = [
        found.response_range.kvs[0].mod_revision if found.response_range.kvs else GONE for found in answer.responses[1:]
    ]
    return [
        all(
            wanted in (None, revision)
            for wanted, revision in zip(each.expected, revisions[2 * n : 2 * n + 2], strict=True)
        )
        for n, each in enumerate(steps)
    ]


def _stands(compare: pb.Compare, key: bytes, revision: int) -> None:
    compare.target, compare.key, compare.mod_revision = pb.Compare.MOD, key, revision


def _put(put: pb.PutRequest, key: bytes, value: bytes, lease: int) -> None:
    put.key, put.value = key, value
    if lease:
        put.lease = lease
