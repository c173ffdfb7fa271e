"""One watch of a datacenter: the list of its services, a poll a service, and slower looks at those without one.

No blocking query of Consul's says which service changed, so each service has a query of its own, as many as the budget
allows. The others are looked at when the checks or the list change, which together cover every change.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial

import msgspec

from adapters.common.assembly import differ
from adapters.common.inbox import Latest
from adapters.consul.budget import ROW, Budget, Busy
from adapters.consul.client import Client, Reply, Throttled, instances_of
from bridge.adapter import Interest, Observed
from bridge.errors import Expired, Unavailable
from bridge.model import ServiceName

SERVICES, CHECKS = "/v1/catalog/services", "/v1/health/state/any"
EARLY = 0.9  # of `wait`: an unchanged index before that is no end of the wait
BURST, BURST_TIME, PAUSE = 20, 1.0, 0.2  # answers in so many seconds, beyond which each is followed by a pause
CHECKS_EVERY = 1.0  # seconds from one look at all checks to the next: it is a dump of all of them
SWEEP_EVERY = 5.0  # seconds from one look at all services without a poll to the next
SWEEP_SHARE = 0.05  # of the time, at most, that such looks take
SWEEP_LATEST = 60.0  # seconds after one look, with thousands of services or a slow agent, that the next one may wait
SWEEP_READS = 8
YIELDED = 4  # of the loop, in which others begin to write what a poll told, before it asks again
PATIENT = 20  # refusals of an agent in a row that a watch outlasts

Tell = Callable[[ServiceName, bytes, int], Observed]


class _Check(msgspec.Struct, gc=False):
    Node: str
    CheckID: str
    ServiceName: str = ""
    ModifyIndex: int = 0


class _Stand(msgspec.Struct, frozen=True):
    """What was last told of a service, and the index of its query then."""

    observed: Observed
    index: int


class Watch:
    """See the module. `asked`: how much links ask for a service. `tell`: decodes an answer."""

    def __init__(
        self,
        client: Client,
        dc: str,
        wait: float,
        budget: Budget,
        rng: random.Random,
        asked: Callable[[ServiceName], Interest],
        tell: Tell,
    ) -> None:
        self.revision = 0  # the index of the list of services: of all indexes the one that only rises
        self._client = client
        self._dc = dc
        self._wait = wait
        self._budget = budget
        self._rng = rng
        self._asked = asked
        self._tell = tell
        self._first: set[str] = set()  # what is polled before others
        self._listed: frozenset[str] = frozenset()  # the list, as it is spelled
        self._names: dict[str, ServiceName] = {}  # what the list has, by its name in lower case
        self._stands: dict[str, _Stand] = {}
        self._polls: dict[str, asyncio.Task[None]] = {}
        self._busy = Busy()
        self._latest: Latest[ServiceName, Observed] = Latest()
        self._tasks: list[asyncio.Task[None]] = []
        self._reading: set[asyncio.Task[None]] = set()
        self._sweep = asyncio.Event()
        self._looks = False
        self._calming: asyncio.Task[None] | None = None
        self._patient = PATIENT

    # -- listing -----------------------------------------------------------------------------------------------------

    async def list_names(self) -> None:
        """Takes the list of services."""
        self._list(await self._get(SERVICES))

    async def listed(self, at_once: int) -> AsyncIterator[Observed]:
        """Every service that is asked for."""
        for some in _portions(self._wanted(), at_once):
            replies = await asyncio.gather(*(self._read(key) for key in some))
            for key, reply in zip(some, replies, strict=True):
                observed = self._stand(key, reply)
                if observed is not None:
                    yield observed

    async def changes(self) -> AsyncIterator[Observed]:
        """What changes from then on, for ever. Raises Unavailable, Expired or Denied."""
        self._run(self._follow_names)
        self._arrange()
        while True:
            for observed in (await self._latest.take()).values():
                yield observed

    async def close(self) -> None:
        """Ends every task and gives the polls back."""
        tasks = [*self._tasks, *self._polls.values(), *self._reading]
        for key in [*self._polls]:
            self._stop(key)
        self._tasks, self._reading = [], set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def ask_again(self) -> None:
        """Other services may be asked for."""
        if self._tasks:
            self._arrange()

    # -- which services ----------------------------------------------------------------------------------------------

    def _list(self, reply: Reply) -> list[str] | None:
        """Takes over a list of services; the keys of those that are gone, None: it is the same list.

        Consul takes no notice of case in names.
        """
        self.revision = max(self.revision, reply.index)
        listed = frozenset(reply.json(dict[str, msgspec.Raw]))
        if listed == self._listed:
            return None
        self._listed = listed
        names: dict[str, ServiceName] = {}
        for spelled in sorted(listed):
            name = ServiceName(spelled)
            known = names.get(spelled.lower())
            if spelled.lower() != "consul" and (known is None or (self._asked(name) and not self._asked(known))):
                names[spelled.lower()] = name
        gone = [key for key in self._names if key not in names]
        # A spelling that was told once stays: two would be two services of the same instances.
        self._names = {key: self._names.get(key, name) for key, name in names.items()}
        return gone

    def _wanted(self) -> list[str]:
        return [key for key, name in self._names.items() if self._asked(name)]

    def _arrange(self) -> None:
        """Polls what should be polled, as far as the budget goes, and forgets what is asked for no more."""
        wanted = {key: interest for key, name in self._names.items() if (interest := self._asked(name))}
        self._first = {key for key, interest in wanted.items() if interest is Interest.FIRST}
        for key in [*self._stands]:
            if key in self._names and key not in wanted:
                self._stop(key)
                del self._stands[key]
        for key in sorted(wanted.keys() - self._polls.keys(), key=lambda key: (-wanted[key], key)):
            if key in self._first and self._budget.is_full and (others := self._others()):
                self._stop(self._busy.quietest(others))
            if self._budget.take():
                self._start(key)
            else:
                self._rest(key)
        if wanted.keys() - self._polls.keys():
            self._look_at_the_rest()

    def _others(self) -> list[str]:
        """What has a poll and may lose it to others."""
        return [key for key in self._polls if key not in self._first]

    def _start(self, key: str) -> None:
        self._polls[key] = asyncio.create_task(self._guarded(partial(self._poll, key)))

    def _stop(self, key: str) -> None:
        task = self._polls.pop(key, None)
        if task is not None:
            self._budget.give()
            if task is not asyncio.current_task():
                task.cancel()

    def _rest(self, key: str) -> None:
        """A service without a poll: read at once where nothing was told of it yet."""
        if key not in self._stands:
            self._soon([key])

    def _changed(self, key: str) -> None:
        """A service changed; one without a poll that does so often takes the poll of a quiet one."""
        self._busy.saw(key)
        if key not in self._polls and key in self._names:
            quiet = self._busy.quieter(key, self._others())
            if quiet is not None:
                self._stop(quiet)
                if self._budget.take():
                    self._start(key)

    # -- following ---------------------------------------------------------------------------------------------------

    async def _follow_names(self) -> None:
        """The list: what is new is read, what is gone is asked for again, and everything else may have changed.

        Each change of an instance answers this query, too, mostly with the same names: then nothing is arranged anew.
        """
        index = self.revision
        async for reply in self._replies(SERVICES, index):
            gone = self._list(reply)
            for key in gone or ():
                self._stop(key)
            self._soon(gone or ())
            if gone is not None or self._looks:
                self._arrange()
            self._sweep.set()

    async def _poll(self, key: str) -> None:
        stand = self._stands.get(key)
        if stand is None:
            self._tell_of(key, await self._read(key))
            stand = self._stands[key]
        async for reply in self._replies(instances_of(self._names[key].name), stand.index):
            await self._take(key, reply)

    async def _take(self, key: str, reply: Reply) -> None:
        """What a poll answered; that nothing is left is believed only once a plain read says so, too."""
        stand = self._stands.get(key)
        if stand is not None and stand.observed.service.instances and reply.body.strip() == b"[]":
            again = await self._read(key)
            if again.index < reply.index:
                raise Expired(f"the index of {key} went back to {again.index}, from {reply.index}")
            reply = again
        self._tell_of(key, reply)

    async def _follow_checks(self) -> None:
        """All checks at once, for services without a poll: which of them changed, and which came or went."""
        first = await self._get(CHECKS)
        known = _by_place(first)
        async for reply in self._replies(CHECKS, first.index, CHECKS_EVERY):
            now = _by_place(reply)
            changed = {one.ServiceName for place, one in now.items() if one.ModifyIndex != _index(known.get(place))}
            changed |= {one.ServiceName for place, one in known.items() if place not in now}
            known = now
            if "" in changed:  # a check of a node is one of every service there
                self._sweep.set()
            self._soon(key for name in changed if (key := name.lower()) in self._names and key not in self._polls)

    async def _look_around(self) -> None:
        """Reads every service without a poll once the list has changed, which says nothing of which one it was."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._sweep.wait()
            self._sweep.clear()
            began = clock()
            for some in _portions([key for key in self._wanted() if key not in self._polls], SWEEP_READS):
                await asyncio.gather(*(self._look(key) for key in some))
            await asyncio.sleep(rest(clock() - began))

    def _soon(self, keys: Iterable[str]) -> None:
        """Reads these in a task of its own."""
        wanted = list(keys)
        if not wanted:
            return

        async def look() -> None:
            for some in _portions(wanted, SWEEP_READS):
                await asyncio.gather(*(self._look(key) for key in some))

        task = asyncio.create_task(self._guarded(look))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    async def _look(self, key: str) -> None:
        if key in self._stands or key in self._names:
            self._tell_of(key, await self._read(key))

    # -- asking ------------------------------------------------------------------------------------------------------

    async def _read(self, key: str) -> Reply:
        name = self._names.get(key)
        if name is None:
            name = self._stands[key].observed.service.name
        return await self._get(instances_of(name.name))

    async def _get(self, path: str) -> Reply:
        while True:
            try:
                return await self._client.get(path, self._dc)
            except Throttled:
                self._refused()
                await self._patience()

    async def _replies(self, path: str, index: int, least: float = 0.0) -> AsyncIterator[Reply]:
        """The answers to a poll that say something new, `least` seconds apart."""
        clock = asyncio.get_running_loop().time
        times: deque[float] = deque(maxlen=BURST)
        while True:
            asked = clock()
            wait = self._wait * (1 - 0.25 * self._rng.random())
            try:
                # Below 1 an index does not block; it is one that nobody has.
                reply = await self._client.poll(path, self._dc, max(1, index), wait)
            except Throttled:
                self._refused()
                if self._gives_way():
                    return
                await self._patience()
                continue
            early = clock() - asked < wait * EARLY
            if reply.index == index and early:
                # Held queries return so when a snapshot was restored under them, with what was there before it.
                reply = await self._get(path)
                if reply.index < index:
                    raise Expired(f"the index of {path} went back to {reply.index}, from {index}")
            if reply.index != index:
                yield reply
                for _ in range(YIELDED):
                    await asyncio.sleep(0)
            index = reply.index
            times.append(clock())
            if len(times) == BURST and times[-1] - times[0] < BURST_TIME:
                await asyncio.sleep(PAUSE)
            if least and early:
                await asyncio.sleep(max(0.0, asked + least - clock()))

    def _gives_way(self) -> bool:
        """Whether this is the poll of a service, which is looked at without one from now on; so are some others."""
        own = next((key for key, task in self._polls.items() if task is asyncio.current_task()), None)
        if own is None:
            return False
        self._stop(own)
        self._look_at_the_rest()
        return True

    def _refused(self) -> None:
        """The agent has no connection left, for which our own polls are to blame: some of them end."""
        self._budget.refused(asyncio.get_running_loop().time())
        if self._calming is None or self._calming.done():
            self._calming = self._run(self._calm)

    async def _calm(self) -> None:
        while not self._budget.calm(asyncio.get_running_loop().time()):
            await asyncio.sleep(PAUSE)
        while self._budget.exceeded and self._polls:
            self._stop(self._busy.quietest(self._others() or [*self._polls]))
        self._patient = PATIENT
        self._look_at_the_rest()

    async def _patience(self) -> None:
        """Lets the refusals that our polls caused pass; where others caused them, they do not. Raises Unavailable."""
        self._patient -= 1
        if self._patient < 0:
            raise Unavailable("the agent refuses connections of this host (429): native clients have them all")
        await asyncio.sleep(ROW)

    def _look_at_the_rest(self) -> None:
        """Some services have no poll from now on."""
        if not self._looks:
            self._looks = True
            self._run(self._follow_checks)
            self._run(self._look_around)
        self._sweep.set()

    # -- telling -----------------------------------------------------------------------------------------------------

    def _stand(self, key: str, reply: Reply) -> Observed | None:
        """What an answer says of a service, None: nothing new."""
        name = self._names[key] if key in self._names else self._stands[key].observed.service.name
        observed = self._tell(name, reply.body, self.revision)
        before = self._stands.get(key)
        is_there = bool(observed.service.instances or observed.unreadable)
        if is_there or key in self._names:
            self._stands[key] = _Stand(observed, reply.index)
        else:
            self._stands.pop(key, None)
        if before is None:
            return observed if is_there else None
        return observed if differ(before.observed, observed) else None

    def _tell_of(self, key: str, reply: Reply) -> None:
        if key not in self._names and key not in self._stands:
            return
        before = self._stands.get(key)
        if before is not None and reply.index < before.index and key in self._names:
            return  # an answer that was on its way while a newer one came
        observed = self._stand(key, reply)
        if observed is not None:
            self._latest.put(observed.service.name, observed)
            self._changed(key)

    def _run(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.append(task)
        return task

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:
            self._latest.fail(error)


def rest(took: float) -> float:
    """Seconds from the end of a look at all services without a poll to the next, where that took so many.

    It is the only thing that tells of changed metadata there: none of the blocking queries says whose it is.
    """
    return min(SWEEP_LATEST, max(SWEEP_EVERY, took / SWEEP_SHARE))


def _by_place(reply: Reply) -> dict[tuple[str, str], _Check]:
    found: list[_Check] = reply.json(list[_Check])
    return {(check.Node, check.CheckID): check for check in found}


def _index(check: _Check | None) -> int:
    return check.ModifyIndex if check is not None else -1


def _portions(keys: list[str], size: int) -> Iterable[list[str]]:
    return (keys[first : first + size] for first in range(0, len(keys), size))
