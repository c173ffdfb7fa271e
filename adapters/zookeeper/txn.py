"""Changes as ZooKeeper transactions: what is compared, and what is written; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec
from kazoo import exceptions as kazoo

from adapters.common.changes import judge, portions
from adapters.zookeeper import wire
from adapters.zookeeper.tree import Pair, Tree
from adapters.zookeeper.wire import Acl, Check, Create, Delete, Op, SetData
from bridge.adapter import Change, Outcome
from bridge.errors import Conflict, Denied, IsthmusError, Rejected, Unavailable, reason
from mappings import ledger

CHANGES = 60  # in one transaction
BYTES = 1_000_000  # in one transaction: a server takes packets of 1 MiB (jute.maxbuffer)


class Version(msgspec.Struct, frozen=True, gc=False):
    """An entry as it was read: where, by which transaction, the versions of both nodes, and its session.

    Of a ledger node without its entry: `zxid` and `word` alone. `word` -1: no bridge's entry. `key` is "" where it is
    `service/id`: there is a version for each entry that stands, and a key is as large as the rest of it.
    """

    key: str
    zxid: int
    entry: int
    word: int
    owner: int = 0


class Rights(NamedTuple):
    """Who may do what with a new entry, and with a new ledger node."""

    entries: Sequence[Acl]
    words: Sequence[Acl]


class Step(NamedTuple):
    """One change to be sent. `after` is the version to come, but for the transaction's number."""

    change: Change
    key: str
    ops: tuple[Op, ...]
    after: Version | None

    @property
    def size(self) -> int:
        """Bytes on the wire, about."""
        return sum(len(op.path) * 3 + len(getattr(op, "value", b"")) + 64 for op in self.ops)


def version(key: str, pair: Pair) -> Version | None:
    """Of what stands there; None: nothing does."""
    entry, word = pair.entry, pair.word
    if entry is None:
        return None
    return Version(
        kept(key), entry.mzxid, entry.version, word.version if word is not None and pair.ours else -1, entry.owner
    )


def kept(key: str) -> str:
    """What a version keeps of a key: nothing of `service/id`, which every layout has but those with a level between."""
    return "" if key.count("/") == 1 else key


def step(tree: Tree, bridge: str, change: Change, rights: Rights, session: int) -> Step:
    """Raises Rejected: the value must not be written. Conflict: what stands there was not written by this bridge."""
    judge(bridge, change)
    what, before = f"{change.service}/{change.id}", change.before
    if before is not None and not isinstance(before.version, Version):
        raise Conflict(f"{what}: not ours to change")
    if before is not None and change.forget:
        key = _key(change, before.version)
        left = (Check(f"{tree.root}/{key}", before.version.entry),) if before.mark is not None else ()
        return Step(change, key, (*left, Delete(f"{tree.ledger}/{key}", before.version.word)), None)
    if before is not None and change.after is None:
        key = _key(change, before.version)
        return Step(change, key, _deletes(tree, key, before.version), None)
    if change.after is None or change.mark is None:
        raise Conflict(f"{what}: nothing to write")  # which `judge` has refused
    key, value = tree.mapping.encode(change.service, change.after)
    if tree.mapping.locate(key) != (change.service, change.id):
        raise Rejected(f"the record belongs under {key}, not under {what}")
    word = ledger.encode(change.mark)
    owner = 0 if change.ttl is None else session
    if before is None:
        made = Step(change, key, _creates(tree, key, value, word, rights, owner), Version(kept(key), 0, 1, 0, owner))
    elif _key(change, before.version) != key:
        raise Rejected(f"the record belongs under {key}, and stands under {_key(change, before.version)}")
    elif before.mark is None and before.version.owner:
        raise Rejected("it dies with the session of the native that registered it")
    elif before.version.word < 0:
        adopted = SetData(f"{tree.root}/{key}", value, before.version.entry)
        spoken = Create(f"{tree.ledger}/{key}", word, rights.words)
        made = Step(change, key, (adopted, spoken), Version(kept(key), 0, before.version.entry + 1, 0))
    else:
        made = Step(change, key, *_replaced(tree, key, before.version, value, word, rights, owner))
    if made.size > BYTES:
        raise Rejected(f"{made.size:,} bytes: a packet of ZooKeeper's holds {BYTES:,}")
    return made


def moved(tree: Tree, key: str, old: Version, pair: Pair, rights: Rights, session: int) -> tuple[Op, ...]:
    """What has an entry die with this session, where it would die with another one."""
    entry, word = pair.entry, pair.word
    values = (entry.value if entry else b"", word.value if word else b"")
    return _deletes(tree, key, old) + _creates(tree, key, *values, rights, session)


def over(step: Step, pair: Pair, ledger_root: str) -> Step:
    """The same creation where a ledger node is left of an entry that is gone: it goes in the same transaction."""
    before = step.change.before
    creates = pair.entry is None if before is None else before.version.word < 0
    if step.after is None or pair.word is None or not creates:
        return step
    return step._replace(ops=(Delete(f"{ledger_root}/{step.key}", pair.word.version), *step.ops))


def stands(step: Step, pair: Pair) -> bool:
    """Whether there is still what the change was planned for.

    Versions alone, which are all that a transaction can compare, do not tell: a client that registers anew deletes
    the node and creates it, and the count begins again.
    """
    before = step.change.before
    if before is None:
        return True
    if step.change.forget and before.mark is None:
        return pair.word is not None and not pair.ours and pair.word.mzxid == before.version.zxid
    return pair.ours == (before.mark is not None) and bool(version(step.key, pair) == before.version)


def in_portions(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Steps by transaction, in their order."""
    return portions(steps, lambda step: step.size, CHANGES, BYTES)


def done(step: Step, zxid: int) -> Outcome:
    """What became of a change that was made."""
    return Outcome(step.change, step.after and msgspec.structs.replace(step.after, zxid=zxid))


def failed(step: Step, error: Exception) -> Outcome:
    """What became of a change that was not."""
    return Outcome(step.change, error=_error(f"{step.change.service}/{step.change.id}", error))


def _creates(tree: Tree, key: str, value: bytes, word: bytes, rights: Rights, owner: int) -> tuple[Op, ...]:
    flags = wire.EPHEMERAL if owner else wire.PERSISTENT
    entry = f"{tree.root}/{key}"
    return (
        # In two operations, so that its version is never that of a node which a native has just created in its place.
        Create(entry, b"", rights.entries, flags),
        SetData(entry, value, 0),
        Create(f"{tree.ledger}/{key}", word, rights.words, flags),
    )


def _key(change: Change, version: Version) -> str:
    return version.key or f"{change.service.name}/{change.id}"


def _deletes(tree: Tree, key: str, old: Version) -> tuple[Op, ...]:
    return Delete(f"{tree.root}/{key}", old.entry), Delete(f"{tree.ledger}/{key}", old.word)


def _replaced(
    tree: Tree, key: str, old: Version, value: bytes, word: bytes, rights: Rights, owner: int
) -> tuple[tuple[Op, ...], Version]:
    if old.owner != owner:  # a node is ephemeral from its creation on, or never
        ops = _deletes(tree, key, old) + _creates(tree, key, value, word, rights, owner)
        return ops, Version(old.key, 0, 1, 0, owner)
    ops = (
        SetData(f"{tree.root}/{key}", value, old.entry),
        SetData(f"{tree.ledger}/{key}", word, old.word),
    )
    return ops, Version(old.key, 0, old.entry + 1, old.word + 1, owner)


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
