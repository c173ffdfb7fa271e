"""Changes as ZooKeeper transactions: what is compared, and what is written; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from kazoo import exceptions as kazoo

from adapters.common.changes import judge, portions
from adapters.zookeeper import wire
from adapters.zookeeper.tree import Pair, Tree
from adapters.zookeeper.wire import Acl, Check, Create, Delete, Failed, Op, SetData
from bridge.adapter import Change, Outcome
from bridge.errors import Conflict, Denied, IsthmusError, Rejected, Unavailable, reason
from mappings import ledger

CHANGES = 60  # in one transaction
BYTES = 1_000_000  # in one transaction: a server takes packets of 1 MiB (jute.maxbuffer)


class Version(msgspec.Struct, frozen=True, gc=False):
    """The version of an entry: its key, the last transaction, the versions of both nodes, and its session.

    Of a ledger node without its entry: `zxid` and `proof` alone. `proof` -1: no bridge's entry. `key` is "" where it is
    `service/id`: there is a version for each entry that stands, and a key is as large as the rest of it.
    """

    key: str
    zxid: int
    entry: int
    proof: int
    owner: int = 0


class Rights(NamedTuple):
    """The ACLs of new entries and of new ledger nodes."""

    entries: Sequence[Acl]
    proofs: Sequence[Acl]


class Step(NamedTuple):
    """One change to be sent. `after`: the version to come, without the transaction's number."""

    change: Change
    key: str
    ops: tuple[Op, ...]
    after: Version | None

    @property
    def size(self) -> int:
        """Its approximate size on the wire, in bytes."""
        return sum(len(op.path) * 3 + len(getattr(op, "value", b"")) + 64 for op in self.ops)


def version(key: str, pair: Pair) -> Version | None:
    """The version of a pair, None: there is neither entry nor ledger node."""
    entry, proof = pair.entry, pair.proof
    if entry is None:
        return None
    return Version(
        kept(key), entry.mzxid, entry.version, proof.version if proof is not None and pair.ours else -1, entry.owner
    )


def kept(key: str) -> str:
    """The key as a version keeps it: "" for `service/id`, the key of most layouts."""
    return "" if key.count("/") == 1 else key


def step(tree: Tree, bridge: str, change: Change, rights: Rights, session: int) -> Step:
    """Raises Rejected where the value must not be written, Conflict where another one wrote what is there."""
    judge(bridge, change)
    what, before = f"{change.service}/{change.id}", change.before
    if before is not None and not isinstance(before.version, Version):
        raise Conflict(f"{what}: not ours to change")
    if before is not None and change.forget:
        key = _key(change, before.version)
        left = (Check(f"{tree.root}/{key}", before.version.entry),) if before.mark is not None else ()
        return Step(change, key, (*left, Delete(f"{tree.ledger}/{key}", before.version.proof)), None)
    if before is not None and change.after is None:
        key = _key(change, before.version)
        return Step(change, key, _deletes(tree, key, before.version), None)
    if change.after is None or change.mark is None:
        raise Conflict(f"{what}: nothing to write")  # `judge` has refused it already
    key, value = tree.mapping.encode(change.service, change.after)
    if tree.mapping.locate(key) != (change.service, change.id):
        raise Rejected(f"the record belongs under {key}, not under {what}")
    proof = ledger.encode(change.mark)
    owner = 0 if change.ttl is None else session
    if before is None:
        made = Step(change, key, _creates(tree, key, value, proof, rights, owner), Version(kept(key), 0, 1, 0, owner))
    elif _key(change, before.version) != key:
        raise Rejected(f"the record belongs under {key}, and stands under {_key(change, before.version)}")
    elif before.mark is None and before.version.owner:
        raise Rejected("it dies with the session of the native that registered it")
    elif before.version.proof < 0:
        adopted = SetData(f"{tree.root}/{key}", value, before.version.entry)
        spoken = Create(f"{tree.ledger}/{key}", proof, rights.proofs)
        made = Step(change, key, (adopted, spoken), Version(kept(key), 0, before.version.entry + 1, 0))
    else:
        made = Step(change, key, *_replaced(tree, key, before.version, value, proof, rights, owner))
    if made.size > BYTES:
        raise Rejected(f"{made.size:,} bytes: a packet of ZooKeeper's holds {BYTES:,}")
    return made


def moved(tree: Tree, key: str, old: Version, pair: Pair, rights: Rights, session: int) -> tuple[Op, ...]:
    """The operations that move an entry from another session to this one."""
    entry, proof = pair.entry, pair.proof
    values = (entry.value if entry else b"", proof.value if proof else b"")
    return _deletes(tree, key, old) + _creates(tree, key, *values, rights, session)


def over(step: Step, pair: Pair, ledger_root: str) -> Step:
    """A creation that also deletes the ledger node of an entry that is gone, in the same transaction."""
    before = step.change.before
    creates = pair.entry is None if before is None else before.version.proof < 0
    if step.after is None or pair.proof is None or not creates:
        return step
    return step._replace(ops=(Delete(f"{ledger_root}/{step.key}", pair.proof.version), *step.ops))


def stands(step: Step, pair: Pair) -> bool:
    """Whether the entry is still the one that the change was planned for.

    A transaction can compare versions alone, which are not enough: a client that registers again deletes
    the node and creates it, and its version begins at 0 again.
    """
    before = step.change.before
    if before is None:
        return True
    if step.change.forget and before.mark is None:
        return pair.proof is not None and not pair.ours and pair.proof.mzxid == before.version.zxid
    return pair.ours == (before.mark is not None) and bool(version(step.key, pair) == before.version)


def in_portions(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """The steps of each transaction, in their order."""
    return portions(steps, lambda step: step.size, CHANGES, BYTES)


def done(step: Step, zxid: int) -> Outcome:
    """The outcome of a change that was made."""
    return Outcome(step.change, step.after and msgspec.structs.replace(step.after, zxid=zxid))


def failed(step: Step, error: Exception) -> Outcome:
    """The outcome of a change that failed."""
    return Outcome(step.change, error=_error(f"{step.change.service}/{step.change.id}", error))


def _creates(tree: Tree, key: str, value: bytes, proof: bytes, rights: Rights, owner: int) -> tuple[Op, ...]:
    flags = wire.EPHEMERAL if owner else wire.PERSISTENT
    entry = f"{tree.root}/{key}"
    return (
        # In two operations, so that its version never equals that of a node that a native has just created there.
        Create(entry, b"", rights.entries, flags),
        SetData(entry, value, 0),
        Create(f"{tree.ledger}/{key}", proof, rights.proofs, flags),
    )


def _key(change: Change, version: Version) -> str:
    return version.key or f"{change.service.name}/{change.id}"


def _deletes(tree: Tree, key: str, old: Version) -> tuple[Op, ...]:
    return Delete(f"{tree.root}/{key}", old.entry), Delete(f"{tree.ledger}/{key}", old.proof)


def _replaced(
    tree: Tree, key: str, old: Version, value: bytes, proof: bytes, rights: Rights, owner: int
) -> tuple[tuple[Op, ...], Version]:
    if old.owner != owner:  # whether a node is ephemeral is decided at its creation
        ops = _deletes(tree, key, old) + _creates(tree, key, value, proof, rights, owner)
        return ops, Version(old.key, 0, 1, 0, owner)
    ops = (
        SetData(f"{tree.root}/{key}", value, old.entry),
        SetData(f"{tree.ledger}/{key}", proof, old.proof),
    )
    return ops, Version(old.key, 0, old.entry + 1, old.proof + 1, owner)


def superseded(fence: Sequence[Check], failure: Failed) -> bool:
    """Whether what the fence checks, which came first, is not so any more."""
    return failure.at < len(fence) and isinstance(failure.error, kazoo.NoNodeError | kazoo.BadVersionError)


_CONFLICTS = (kazoo.NoNodeError, kazoo.NodeExistsError, kazoo.BadVersionError)
_REFUSALS = (kazoo.NoAuthError, kazoo.InvalidACLError)
_NEVER = (kazoo.BadArgumentsError, kazoo.NotEmptyError, kazoo.NoChildrenForEphemeralsError, kazoo.MarshallingError)


def _error(what: str, error: Exception) -> IsthmusError:
    if isinstance(error, IsthmusError):
        return error
    said = reason(error)
    if isinstance(error, _CONFLICTS):
        return Conflict(f"{what}: it is not what it was ({said})")
    if isinstance(error, _REFUSALS):
        return Denied(f"{what}: {said}")
    if isinstance(error, _NEVER):
        return Rejected(f"{what}: {said}")
    return Unavailable(f"{what}: {said}")
