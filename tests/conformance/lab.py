"""What the suites need of a registry: a laboratory that pokes it behind the bridge's back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import pytest

from bridge.adapter import Change, Entry, Held, Listing, Observed, Outcome, Registry, Source, Synced
from bridge.errors import IsthmusError
from bridge.model import Instance, Mark, Port, Service, ServiceName
from tests.kit import waiting
from tests.kit.seated import Seated
from tests.kit.waiting import DEADLINE, Condition

BRIDGE = "bridge-a"
OTHER = "bridge-b"
PAY = ServiceName("pay")
CART = ServiceName("cart")

Can = Literal["change", "write", "spoil", "cut", "erase", "steal", "lease", "adopt", "loose", "fence", "order"]


Form = Callable[[ServiceName, Instance], Instance]


class Lab(Protocol):
    """One registry, empty at first. `can` declares what there is a way to do; what it lacks skips the promise.

    change: a record says more than its key does, and may be another one under the same key.
    write: it is no registry that is only read. lease: entries can die with their writer.
    loose: the ledger is beside the records, so that an entry of it can be left behind.
    erase: a native deletes what a bridge wrote, and leaves its ledger entry.
    fence: what a process writes compares its lock, so that one that was stopped writes nothing when it wakes up.
    order: who takes the free lock of a shard without a claim compares that nobody claims it.
    adopt: a bridge may take over what natives wrote.
    `form`: what the registry makes of an instance; see `instance`.
    """

    can: frozenset[Can]
    form: Form

    def lender(self) -> Registry | None:
        """Another client of the store whose seats it borrows; None: it has its own."""
        ...

    def registry(self) -> Registry:
        """Another client of the same store; the caller enters it."""
        ...

    async def register(self, service: ServiceName, instance: Instance) -> None:
        """Write as a native does: address, first port and metadata, over whatever stands under that id."""
        ...

    async def deregister(self, service: ServiceName, id: str) -> None:
        """Delete as a native does."""
        ...

    async def truth(self, service: ServiceName) -> Mapping[str, tuple[str, int]]:
        """Address and port of each id that a native client would find, past our code."""
        ...

    async def place(self) -> object:
        """Equal as long as nobody has written anything."""
        ...

    async def spoil(self, service: ServiceName, id: str) -> None:
        """Make a native's record one that nobody can read."""
        ...

    async def erase(self, service: ServiceName, id: str) -> None:
        """Delete as a native does, whoever wrote it."""
        ...

    async def cut(self) -> None:
        """Nobody gets an answer until `heal`."""
        ...

    async def heal(self) -> None: ...

    async def steal(self, bridge: str) -> None:
        """Take its lock from the writer of this bridge, as if its session had ended."""
        ...

    async def expire(self, bridge: str) -> None:
        """End the leases of what this bridge wrote with a `ttl`, its writer being gone."""
        ...


class ShardsLab(Lab, Protocol):
    """Of a store whose seats can be divided."""

    def block(self) -> tuple[str, Mapping[str, Any]]:
        """The kind of `registry()` and the keys of its block in a file, for a process of its own; ("", {}): none."""
        ...

    async def end(self, bridge: str, who: str) -> None:
        """What the process of that name holds and claims of shards ends, as if it had died long ago."""
        ...

    async def say(self, bridge: str, count: int | None) -> None:
        """Write over what the key `shards` says, None: delete it, whoever holds what."""
        ...


# The suites, one module each: what a kind of registry does not have is not bound to it.
#   source   it is read
#   sink     it is written
#   seat     it can lock, and its sink compares the lock
#   natives  others than bridges write there: what they do shows as drift, and versions are compared with theirs
#   leases   entries can die with their writer
#   shards   the seat can be divided, and the lab is a ShardsLab; not bound to every layout
Part = Literal["source", "sink", "seat", "natives", "leases", "shards"]
EVERY_PART: frozenset[Part] = frozenset({"source", "sink", "seat", "natives", "leases"})


class Kind(NamedTuple):
    """One binding: the fixture of its server, if it needs one, and how to open a lab on it.

    `parts`: the suites that are bound to it. `patience`: seconds after which what is waited for will not come.
    """

    server: str | None
    open: Callable[[Any, Path], AbstractAsyncContextManager[Lab]]
    parts: frozenset[Part] = EVERY_PART
    patience: float = DEADLINE


def need(lab: Lab, what: Can) -> None:
    """Skips where the registry has no way to do this."""
    if what not in lab.can:
        pytest.skip(f"{type(lab).__name__} cannot {what}")


def as_it_is(service: ServiceName, instance: Instance) -> Instance:
    """The form of a registry that carries all."""
    return instance


_forms: list[Form] = [as_it_is]  # the last one is in force
_patience: list[float] = [DEADLINE]


@contextmanager
def speaking(form: Form, patience: float = DEADLINE) -> Iterator[None]:
    """Inside, every `instance` has this form, and every wait of the suites this patience."""
    _forms.append(form)
    _patience.append(patience)
    try:
        yield
    finally:
        _forms.pop()
        _patience.pop()


def patience() -> float:
    """Seconds after which what is waited for will not come, at the registry of this test."""
    return _patience[-1]


async def until(condition: Condition, what: str = "") -> Any:
    """Waits for a condition as long as the registry of this test may take."""
    return await waiting.until(condition, what, within=patience())


def instance(number: int, service: ServiceName = PAY, /, **metadata: str) -> Instance:
    """One of some instances, in the form that the registry of this test carries as it is.

    Most keep it as it is; of some the id is the address, and some have no metadata to change.
    """
    port = Port(9000 + number, "grpc", "grpc")
    return _forms[-1](service, Instance(f"i{number}", f"192.0.2.{number}", (port,), metadata=metadata))


def i(number: int, service: ServiceName = PAY) -> str:
    """The id of that instance, without metadata."""
    return instance(number, service).id


def at(*instances: Instance) -> dict[str, tuple[str, int]]:
    """What `Lab.truth` says of these."""
    return {each.id: (each.address, each.ports[0].number) for each in instances}


def mark(service: ServiceName, id: str, owner: str = BRIDGE) -> Mark:
    """Whatever is copied here came from a registry named `origin`."""
    return Mark(owner, "link", ("origin",), "", service, id)


def create(service: ServiceName, what: Instance, owner: str = BRIDGE, ttl: int | None = None) -> Change:
    """Write it where nothing stands."""
    return Change(service, what.id, None, what, mark(service, what.id, owner), ttl=ttl)


def change(service: ServiceName, before: Entry, after: Instance | None, owner: str = BRIDGE) -> Change:
    """Replace what stands there, or with None remove it."""
    return Change(service, before.instance.id, before, after, mark(service, after.id, owner) if after else None)


def forget(service: ServiceName, id: str, version: object) -> Change:
    """Drop the ledger entry alone."""
    return Change(service, id, Entry(Instance(id, ""), None, version), forget=True)


def release(service: ServiceName, before: Entry) -> Change:
    """Drop the ledger entry of what is ours, and leave the data."""
    return Change(service, before.instance.id, before, mark=before.mark, forget=True)


def adopt(service: ServiceName, before: Entry, after: Instance, owner: str = BRIDGE) -> Change:
    """Take over what is not ours."""
    return Change(service, after.id, before, after, mark(service, after.id, owner), adopt=True)


async def write(sink: Seated, *changes: Change) -> list[Entry]:
    """Apply changes that must all be made; what stands there then, without the removed."""
    outcomes = await sink.apply(changes)
    assert [outcome.error for outcome in outcomes] == [None] * len(changes)
    return [Entry(o.change.after, o.change.mark, o.version) for o in outcomes if o.change.after]


async def refusals(sink: Seated, *changes: Change) -> list[type[Exception] | None]:
    """What each change came to: None is made."""
    outcomes: list[Outcome] = list(await sink.apply(changes))
    assert [outcome.change for outcome in outcomes] == list(changes)
    return [type(outcome.error) if outcome.error else None for outcome in outcomes]


async def shown(sink: Seated, service: ServiceName) -> dict[str, Entry]:
    """What the sink holds under one name."""
    return (await sink.held([service])).services.get(service, {})


def owners(held: Held | dict[str, Entry], service: ServiceName = PAY) -> dict[str, str]:
    """Who wrote each entry of a service, "" are natives."""
    entries = held.services.get(service, {}) if isinstance(held, Held) else held
    return {id: entry.mark.owner if entry.mark else "" for id, entry in entries.items()}


async def source_of(registry: Registry) -> Source:
    """The one scope, or the first of several."""
    async with aclosing(cast(Any, registry.scopes())) as scopes:
        async for source in scopes:
            return cast(Source, source)
    raise AssertionError("no scope")


@asynccontextmanager
async def seated(lab: Lab, registry: Registry, bridge: str) -> AsyncIterator[Seated]:
    """The destination side, and the lock held: the registry's own, or one that it borrows."""
    lender = lab.lender()
    async with lender or nullcontext():
        sink = Seated(registry, bridge, lender.seat(bridge, registry.name) if lender is not None else None)
        async with sink.writer():
            yield sink


class Watching:
    """A watch under way: all that it said, and the picture that this adds up to."""

    def __init__(self) -> None:
        self.said: list[Listing | Observed | Synced] = []
        self.observed: dict[ServiceName, Observed] = {}
        self.error: Exception | None = None
        self._more = asyncio.Event()

    @property
    def synced(self) -> bool:
        """Whether the listing is complete."""
        return any(isinstance(word, Synced) for word in self.said)

    def observations(self, name: ServiceName) -> list[Observed]:
        """All that was said of one service, in order."""
        return [word for word in self.said if isinstance(word, Observed) and word.service.name == name]

    def service(self, name: ServiceName) -> Service:
        """What is known of a service now."""
        return self.observed[name].service if name in self.observed else Service(name)

    def picture(self, name: ServiceName) -> dict[str, tuple[str, int]]:
        """The same in the words of `Lab.truth`."""
        return at(*self.service(name).instances.values())

    def hear(self, word: Listing | Observed | Synced) -> None:
        self.said.append(word)
        if isinstance(word, Observed):
            self.observed[word.service.name] = word
        self._more.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self._more.set()

    async def until(self, check: Callable[[], bool]) -> None:
        """Waits until what was said passes; a watch that ended meanwhile fails the test, unless that passes."""
        async with asyncio.timeout(patience()):
            while not check():
                if self.error:
                    raise self.error
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def watching(source: Source) -> AsyncIterator[Watching]:
    """Watches while the block runs."""
    watch = Watching()

    async def run() -> None:
        try:
            async with aclosing(cast(Any, source.watch())) as words:
                async for word in words:
                    watch.hear(word)
        except IsthmusError as error:
            watch.fail(error)

    task = asyncio.create_task(run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()):
            raise error
