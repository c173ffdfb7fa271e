"""Changes as etcd transactions: what is compared, what is written, and which changes were possible. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from adapters.common.changes import judge, portions
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import Range, Space
from adapters.etcd.lock import Fence
from bridge.adapter import Change
from bridge.errors import Rejected
from mappings.ledger import encode

CHANGES = 60  # in one transaction: two operations each and the fence's, of the 128 that etcd allows (--max-txn-ops)
BYTES = 1 << 20  # bytes of keys and values in one transaction, of the 1.5 MiB that etcd allows (--max-request-bytes)
GONE = 0  # the revision of a key that does not exist


class Step(NamedTuple):
    """One change to be sent: the values, and the revisions that both keys must still have (None: any)."""

    change: Change
    key: bytes
    expected: tuple[int | None, int | None]  # of the entry, and of its ledger entry
    value: bytes | None = None
    proof: bytes | None = None
    lease: int = 0

    @property
    def size(self) -> int:
        """Its approximate size on the wire, in bytes."""
        return 3 * len(self.key) + len(self.value or b"") + len(self.proof or b"")


def step(space: Space, bridge: str, change: Change, lease: int) -> Step:
    """Raises Rejected where the value must not be written, Conflict where another one wrote what is there."""
    judge(bridge, change)
    key, before = space.key(change.service, change.id), change.before
    if change.forget:
        revision = before.version if before is not None else None
        return Step(change, key, (revision if before is not None and before.mark else None, revision))
    # Not the create revision: stock clients overwrite a key and keep it (safety rule 5).
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
    """The steps of each transaction, in their order."""
    return portions(steps, lambda step: step.size, CHANGES, BYTES)


def transaction(fence: Fence, steps: Iterable[Step]) -> pb.TxnRequest:
    """One transaction of several steps: all or nothing. Where it fails, `looks` finds out why."""
    # add() and assignment: nested constructors copy, and cost four times as much.
    request = pb.TxnRequest()
    compare, operation = request.compare.add, request.success.add
    fenced(request, fence)
    for change, key, (entry, said), value, proof, lease in steps:
        ledger_key = ledger.key_of(key)
        if entry is not None:
            _stands(compare(), key, entry)
        if said is not None:
            _stands(compare(), ledger_key, said)
        if value is not None:
            _put(operation().request_put, key, value, lease)
            _put(operation().request_put, ledger_key, proof or b"", lease)
        else:
            if not change.forget:
                operation().request_delete_range.key = key
            operation().request_delete_range.key = ledger_key
    return request


def fenced(request: pb.TxnRequest, fence: Fence) -> None:
    """Makes a transaction the writer's: it fails once the lock has changed hands, or there are other shards."""
    _stands(request.compare.add(), fence.key, fence.revision)
    if fence.divided is not None:
        count = request.compare.add()
        count.target, count.key, count.value = pb.Compare.VALUE, *fence.divided


def looks(fence: Fence, steps: Iterable[Step]) -> pb.TxnRequest:
    """Reads what a transaction compared: not part of the transaction itself, for most of them succeed."""
    request = pb.TxnRequest()
    for key in _places(fence):
        request.success.add().request_range.key = key
    for key in (key for each in steps for key in (each.key, ledger.key_of(each.key))):
        look = request.success.add().request_range
        look.key, look.keys_only = key, True
    return request


def _places(fence: Fence) -> list[bytes]:
    return [fence.key, *([fence.divided.key] if fence.divided is not None else [])]


def noting(key: bytes, content: bytes, revision: int, fence: Fence | None) -> pb.TxnRequest:
    """Replaces the note of that revision; with a fence, only as the writer."""
    request = pb.TxnRequest(compare=[pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)])
    if fence is not None:
        fenced(request, fence)
    _put(request.success.add().request_put, key, content, 0)
    return request


def removing(areas: Iterable[Range], fence: Fence) -> pb.TxnRequest:
    """Deletes keys, only as the writer, whatever their revisions."""
    request = pb.TxnRequest(success=[deleting(area) for area in areas])
    fenced(request, fence)
    return request


def deleting(area: Range) -> pb.RequestOp:
    """Deletes keys; a range of one has an empty end."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=area.start, range_end=area.end))


def dropping(key: bytes, revision: int) -> pb.TxnRequest:
    """Deletes a key if it has that revision."""
    stands = pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision)
    return pb.TxnRequest(compare=[stands], success=[deleting(Range(key, b""))])


def is_held(fence: Fence, answer: pb.TxnResponse) -> bool:
    """Whether the lock was still ours when the transaction failed, and there were as many shards."""
    lock, *more = (found.response_range.kvs for found in answer.responses[: len(_places(fence))])
    counts = [kv.value for kvs in more for kv in kvs]
    wanted = [fence.divided.value] if fence.divided is not None else []
    return [kv.mod_revision for kv in lock] == [fence.revision] and counts == wanted


def stood(fence: Fence, steps: Sequence[Step], answer: pb.TxnResponse) -> list[bool]:
    """Which steps of a failed transaction are possible by themselves."""
    read = [found.response_range.kvs for found in answer.responses[len(_places(fence)) :]]
    revisions = [kvs[0].mod_revision if kvs else GONE for kvs in read]
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
