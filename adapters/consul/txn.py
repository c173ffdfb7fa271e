"""Transactions: what each change of an entry asks of Consul, and what an answer says of each; pure but for `submit`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from adapters.common import changes
from adapters.consul.client import Client, classify
from adapters.consul.lock import ConsulTerm
from adapters.consul.records import Version
from bridge.adapter import Change
from bridge.errors import Conflict, Rejected, Unavailable
from bridge.model import Health, Instance, Mark, ServiceName
from mappings import consul

OPERATIONS = 126  # in one transaction: Consul takes 128, and two of them may be the fence
BYTES = 400 * 1024  # of its body: Consul takes 512 KiB

COMPARED = ("failed session check", "failed to check session", "failed index check", "failed to check index")


class Step(msgspec.Struct, frozen=True):
    """One change as operations. `writes`: there is a new version. `places`: an entry that was on no node of ours."""

    change: Change
    ops: tuple[dict[str, Any], ...]
    size: int
    writes: bool = False
    node: str = ""
    places: bool = False


class Refusal(Exception):
    """A transaction was refused as a whole. `errors`: why, by the number of the operation."""

    def __init__(self, errors: Mapping[int, str]) -> None:
        super().__init__("; ".join(errors.values()))
        self.errors = errors

    def superseded(self, fence: Sequence[object]) -> bool:
        """Whether what the fence compares, which came first, is not so any more."""
        said = [text for number, text in self.errors.items() if number < len(fence)]
        return any(words in text for text in said for words in COMPARED)


class _Error(msgspec.Struct):
    OpIndex: int = 0
    What: str = ""


class _Answer(msgspec.Struct):
    Results: list[dict[str, Any]] | None = None
    Errors: list[_Error] | None = None


async def submit(client: Client, dc: str, ops: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes the operations at once, or raises Refusal. Raises Unavailable, Denied or Rejected (too large)."""
    answer = await client.put("/v1/txn", dc, ops, accept=(409,))
    said = answer.json(_Answer)
    if answer.status == 409 or said.Errors:
        raise Refusal({error.OpIndex: error.What for error in said.Errors or ()} or {-1: "refused"})
    return said.Results or []


def why(text: str) -> Exception:
    """The error of a change whose operation was refused with this text."""
    kind = classify(409, text) or Conflict
    if "Missing node registration" in text:
        kind = Unavailable  # the node is made anew with the next attempt
    return kind(text)


def fence_of(term: ConsulTerm) -> list[dict[str, Any]]:
    """Makes a transaction that of the lock's holder, or of nobody."""
    key, session, _, divided = term.fence
    if divided is None:
        return [kv("check-session", key, Session=session)]
    return [kv("check-index", key, Index=divided.held), kv("check-index", divided.key, Index=divided.said)]


def portions(steps: Iterable[Step]) -> Iterable[list[Step]]:
    """Steps by transaction, in their order: a step has four operations at most, and there is room for the fence."""
    return changes.portions(steps, lambda step: step.size, OPERATIONS // 4, BYTES)


def operations(fence: Sequence[dict[str, Any]], steps: Iterable[Step]) -> list[dict[str, Any]]:
    """One transaction of these steps, which compares the fence first."""
    return [*fence, *(op for each in steps for op in each.ops)]


def kv(verb: str, key: str, **more: Any) -> dict[str, Any]:
    """An operation on a key."""
    return {"KV": {"Verb": verb, "Key": key, **more}}


def node(bridge: str, name: str) -> dict[str, Any]:
    """Makes a node of a bridge's, unless it is there: every change of a node wakes who watches its services."""
    made = {"Node": name, "Address": "127.0.0.1", "Meta": {"isthmus": bridge}, "ModifyIndex": 0}
    return {"Node": {"Verb": "cas", "Node": made}}


def create(change: Change, on: str) -> Step:
    """Writes an entry where none is."""
    assert change.after is not None
    return _step(change, on, _put(change.service, change.after, change.mark, on, 0), writes=True, places=True)


def replace(change: Change, stood: Version) -> Step:
    """Writes an entry over what was read there, with the same owner or another one."""
    assert change.before is not None
    assert change.after is not None
    ops = _put(change.service, change.after, change.mark, stood.node, stood.modified)
    return _step(change, stood.node, ops, writes=True)


def move(change: Change, stood: Version, on: str) -> Step:
    """Takes over what another bridge has on a node of its own."""
    assert change.after is not None
    ops = [_delete(stood), *_put(change.service, change.after, change.mark, on, 0)]
    return _step(change, on, ops, writes=True, places=True)


def release(change: Change, stood: Version) -> Step:
    """Leaves the entry without its mark."""
    assert change.before is not None
    return _step(change, stood.node, _put(change.service, change.before.instance, None, stood.node, stood.modified))


def remove(change: Change, stood: Version) -> Step:
    """Takes the entry away, with its checks."""
    return _step(change, stood.node, [_delete(stood)])


def version(step: Step, results: list[dict[str, Any]]) -> Version | None:
    """The entry's version as a transaction left it; `results` are those of its operations, a deletion has none."""
    if not step.writes:
        return None
    service = next(one["Service"] for one in results if "Service" in one)
    return Version(step.node, service["ID"], service["Service"], service["ModifyIndex"])


def _step(change: Change, on: str, ops: list[dict[str, Any]], writes: bool = False, places: bool = False) -> Step:
    return Step(change, tuple(ops), len(msgspec.json.encode(ops)), writes, on, places)


def _delete(stood: Version) -> dict[str, Any]:
    service = {"ID": stood.service_id, "Service": stood.service, "ModifyIndex": stood.modified}
    return {"Service": {"Verb": "delete-cas", "Node": stood.node, "Service": service}}


def _put(name: ServiceName, instance: Instance, mark: Mark | None, on: str, modified: int) -> list[dict[str, Any]]:
    written = consul.encode(name, instance, mark)
    if len(msgspec.json.encode(written.service)) > BYTES:
        raise Rejected("larger than one transaction of Consul's takes")
    id = written.service["ID"]
    about = {"Node": on, "ServiceID": id, "ServiceName": name.name}
    check = {
        **about,
        "CheckID": f"{consul.CHECK}{id}",
        "Name": f"{name.name} as its own registry has it",
        "Status": written.status,
        "Output": instance.health.value if instance.health is not Health.UNKNOWN else "",
    }
    ops = [
        {"Service": {"Verb": "cas", "Node": on, "Service": {**written.service, "ModifyIndex": modified}}},
        {"Check": {"Verb": "set", "Check": check}},
    ]
    maintenance = {**about, "CheckID": f"{consul.MAINTENANCE}{id}", "Name": "Service Maintenance Mode"}
    if written.maintenance:
        ops.append({"Check": {"Verb": "set", "Check": {**maintenance, "Status": "critical"}}})
    elif modified:
        ops.append({"Check": {"Verb": "delete", "Check": maintenance}})
    return ops
