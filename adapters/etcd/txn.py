"""Changes as etcd transactions: what is compared, what is written, and who stood in the way; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger
from adapters.etcd.keys import Space
from adapters.etcd.lock import Fence
from bridge.adapter import Change
from bridge.errors import Conflict, Rejected

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
    key = space.key(change.service, change.id)
    before = change.before
    if change.forget:
        if before is None:
            raise Conflict(f"{change.service}/{change.id}: forget what? the change has no `before`")
        return Step(change, key, (None, before.version))
    if before is not None and (before.mark is None or before.mark.owner != bridge):
        raise Conflict(f"{change.service}/{change.id}: not ours to change")
    # A create revision would not do: stock clients rewrite a key and keep it (design, rule 5).
    expected = (GONE, None) if before is None else (before.version, before.version)
    if change.after is None:
        return Step(change, key, expected)
    if change.mark is None:
        raise Rejected(f"{change.service}/{change.id}: no mark for the ledger")
    path, value = space.layout.encode(change.service, change.after)
    if (space.prefix + path).encode() != key:
        raise Rejected(f"the record belongs under {path}, not under {change.service}/{change.id}")
    if not space.has(key):
        raise Rejected(f"{key.decode()} is where another layout or the ledger is")
    return Step(change, key, expected, value, ledger.encode(change.mark), lease)


def portions(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps by transaction, in their order."""
    portion: list[Step] = []
    size = 0
    for each in steps:
        if portion and (len(portion) == CHANGES or size + each.size > BYTES):
            yield portion
            portion, size = [], 0
        portion.append(each)
        size += each.size
    if portion:
        yield portion


def transaction(fence: Fence, steps: Sequence[Step]) -> pb.TxnRequest:
    """All or nothing; where it comes to nothing, the answer says what stands under each key."""
    request = pb.TxnRequest(
        compare=[pb.Compare(target=pb.Compare.CREATE, key=fence.key, create_revision=fence.revision)],
        failure=[_look(fence.key)],
    )
    for each in steps:
        word = ledger.key_of(each.key)
        for key, revision in zip((each.key, word), each.expected, strict=True):
            if revision is not None:
                request.compare.append(pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=revision))
            request.failure.append(_look(key))
        if each.value is not None:
            request.success.append(_put(each.key, each.value, each.lease))
            request.success.append(_put(word, each.word or b"", each.lease))
        else:
            if not each.change.forget:
                request.success.append(_delete(each.key))
            request.success.append(_delete(word))
    return request


def is_held(fence: Fence, answer: pb.TxnResponse) -> bool:
    """Whether the lock was ours when a transaction came to nothing."""
    found = answer.responses[0].response_range.kvs
    return bool(found) and found[0].create_revision == fence.revision


def stood(steps: Sequence[Step], answer: pb.TxnResponse) -> list[bool]:
    """Which steps would have been made, of a transaction that came to nothing."""
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


def _look(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, keys_only=True))


def _put(key: bytes, value: bytes, lease: int) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def _delete(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
