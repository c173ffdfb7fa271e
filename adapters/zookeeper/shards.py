"""The locks of shards in ZooKeeper: below the node of each a queue of ephemeral nodes, of which the first has the lock.

Those behind it are the claims, so that a hand-over is the end of the first. Who waits without a claim has no node: it
joins an empty queue, and compares that nobody has joined it since.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime

from kazoo.exceptions import NoAuthError, NoNodeError

from adapters.common.places import SHARDS
from adapters.common.shards import Claim, Lot, OfShard, Picture, Said, Wish, count_of, said, who_of
from adapters.zookeeper import acl, wire
from adapters.zookeeper.client import Client
from adapters.zookeeper.lock import NODE, Wake, ZooKeeperTerm, contenders
from adapters.zookeeper.replies import Answer, Disconnected, lists_of, values_of
from adapters.zookeeper.txn import superseded
from adapters.zookeeper.wire import Acl, Check, Create, Delete, Failed, Node, Op, SetData
from bridge.adapter import Note
from bridge.errors import Conflict, Denied, Expired, Superseded, Unavailable

ATTEMPTS = 5  # at a lock's node whose value a writer changes meanwhile


class ZooKeeperLife:
    """The session that the nodes of this process end with; what is heard of it is told to the `terms`."""

    def __init__(self, client: Client) -> None:
        self.session = client.session
        self.id = f"{client.session:x}"
        self.terms: set[ZooKeeperTerm] = set()
        self._client = client
        self._lost = asyncio.Event()

    @property
    def over(self) -> bool:
        """Whether there is another session, or none."""
        return self._lost.is_set() or self._client.session != self.session

    async def ended(self) -> None:
        """Returns when the session is lost."""
        await self._lost.wait()

    # Called by the client.

    def connected(self) -> None:
        for term in tuple(self.terms):
            term.connected()

    def disconnected(self) -> None:
        for term in tuple(self.terms):
            term.disconnected()

    def lost(self, reason: str) -> None:
        self._lost.set()
        for term in tuple(self.terms):
            term.lost(reason)

    def told(self, kind: int, path: str) -> None:
        for term in tuple(self.terms):
            term.told(kind, path)


class ZooKeeperShardTerm(OfShard, ZooKeeperTerm):
    """The time during which our node is the first of its queue. `divided`: the check of the key `shards`."""

    leases = False

    def __init__(
        self, client: Client, path: str, divided: Check, wish: Wish, version: int, life: ZooKeeperLife
    ) -> None:
        super().__init__(client, path)
        self.wish = wish
        self.version = version
        self._divided = divided
        self._life = life
        life.terms.add(self)

    @property
    def fence(self) -> tuple[Check, ...]:
        """What each transaction checks: that our node exists, and that there are as many shards."""
        return (Check(self.path), self._divided)

    def lose(self) -> None:
        """Ends the term."""
        super().lose()
        self._life.terms.discard(self)


class ZooKeeperArea:
    """The shards of one seat, by node; see `adapters.common.shards.Area`."""

    def __init__(
        self,
        client: Client,
        lock: str,
        notes: str,
        now: Callable[[], datetime],
        prepare: Callable[[], Awaitable[list[Acl]]],
    ) -> None:
        self._client = client
        self._whole = lock
        self._shards = f"{lock}/{SHARDS}"
        self._notes = notes
        self._now = now
        self._prepare = prepare
        self._rights: list[Acl] = []
        self._said = Said(None, 0)

    async def divided(self) -> int | None:
        """See `Shards.divided`."""
        return (await self.look()).count

    async def divide(self, count: int) -> None:
        """See `Shards.divide`. The lock's node is made anew: it cannot be deleted while anything is below it."""
        await self._client.connected()
        for _ in range(ATTEMPTS):
            await acl.ensure(self._client, self._whole)
            (node,) = values_of(await self._client.reads([self._whole]))
            rights = await acl.inherited(self._client, self._whole)
            if node is None:
                continue
            failure = await self._made(
                Delete(self._whole, node.version),
                Create(self._whole, node.value, rights),
                Create(self._shards, str(count).encode(), rights),
            )
            stands = await self.divided() if failure is not None else count
            if stands == count:
                return
            if stands is not None:
                raise Conflict(f"{self._shards} says {stands}")
            if await self._client.children(self._whole):
                raise Conflict("a process holds the lock of the whole, or waits for it")
        raise Unavailable(f"{self._whole} changes faster than it can be divided")

    async def unite(self) -> None:
        """See `Shards.unite`: in one transaction, which fails where anything is below a node that it deletes."""
        picture = await self.look()
        if picture.lots:
            raise Conflict("a process holds the lock of a shard, or claims it")
        folders, notes = lists_of(await self._client.reads([], [self._shards, self._notes]))
        below = [f"{self._shards}/{name}" for name in folders or ()] + [f"{self._notes}/{name}" for name in notes or ()]
        above = [path for path, names in ((self._shards, folders), (self._notes, notes)) if names is not None]
        if (failure := await self._made(*(Delete(path, -1) for path in [*below, *above]))) is not None:
            raise Conflict(f"a process takes a shard meanwhile ({failure.error or type(failure.error).__name__})")

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[ZooKeeperLife]:
        """The session that there is."""
        await self._client.connected()
        await acl.ensure(self._client, self._whole)
        self._rights = await self._prepare()
        life = ZooKeeperLife(self._client)
        quiet = self._client.listen(life)
        try:
            yield life
        finally:
            quiet()

    async def follow(self, hear: Callable[[Picture], None]) -> None:
        """By a watch of all nodes."""
        news = Wake(self._shards)
        quiet = self._client.listen(news)
        try:
            while True:
                news.event.clear()
                if news.reason:
                    raise Unavailable(f"{news.reason} while waiting for the lock of a shard")
                try:
                    await self._client.connected()
                    await self._client.watch(self._shards)
                    hear(await self._read())
                except Disconnected:
                    continue
                except Expired as error:
                    raise Unavailable(f"{error} while waiting for the lock of a shard") from None
                await news.event.wait()
        finally:
            quiet()

    async def look(self) -> Picture:
        """By reads after a sync."""
        await self._client.connected()
        await self._client.sync(self._shards)
        return await self._read()

    async def claim(self, life: ZooKeeperLife, wish: Wish) -> int:
        """A node at the end of the queue."""
        if self._said.shards != wish.count:
            return 0
        answer = await self._join(wish, self._divided, version=-1)
        return answer.zxid

    async def take(self, life: ZooKeeperLife, wish: Wish) -> ZooKeeperShardTerm | None:
        """Joins an empty queue, unless our node is its first already."""
        if self._said.shards != wish.count:
            return None
        divided = self._divided
        (folder,) = values_of(await self._client.reads([self._folder(wish.shard)]))  # before the queue: see `_join`
        first = await self._first(wish.shard)
        if first is None:
            await self._join(wish, divided, version=folder.version if folder is not None else 0)
            first = await self._first(wish.shard)
        if first is None or first[1].owner != life.session:
            return None
        path, node = first
        term = ZooKeeperShardTerm(self._client, path, divided, wish, node.mzxid, life)
        try:
            await self._client.watch(path)
        except BaseException:
            term.lose()
            raise
        return term

    async def give(self, term: ZooKeeperShardTerm, claim: Claim) -> bool:
        """Deletes our node, and compares that of the claim, which is the next in the queue."""
        return await self._made(Check(claim.version), Delete(term.path, -1)) is None

    async def release(self, life: ZooKeeperLife, shard: int) -> None:
        """Deletes our nodes in the queue."""
        for path, node in await self._queue(shard):
            if node.owner == life.session:
                with contextlib.suppress(NoNodeError):
                    await self._client.delete(path)

    async def notes(self) -> dict[int, Note]:
        """By reads after a sync."""
        await self._client.connected()
        await self._client.sync(self._notes)
        names = [name for name in await self._client.children(self._notes) if name.isdigit()]
        nodes = values_of(await self._client.reads([f"{self._notes}/{name}" for name in names])) if names else []
        found = zip(names, nodes, strict=True)
        return {int(name): Note(node.value, node.version) for name, node in found if node is not None}

    async def note(self, content: bytes, before: Note | None, term: ZooKeeperShardTerm) -> Note:
        """Checks the fence, and what it replaces."""
        await self._client.connected()
        return await noted(self._client, f"{self._notes}/{term.wish.shard}", content, before, term.fence)

    @property
    def _divided(self) -> Check:
        return Check(self._shards, self._said.version)

    async def _join(self, wish: Wish, divided: Check, version: int) -> Answer:
        """Puts a node at the end of the queue, if the queue's own node has that version (-1: any), and raises it."""
        folder = self._folder(wish.shard)
        flags = wire.EPHEMERAL | wire.SEQUENTIAL
        node = Create(f"{folder}/{NODE}", said(wish.who, self._now()), self._rights, flags)
        raised = SetData(folder, b"", version)
        answer = await self._client.multi(self._client.pack([divided, raised, node]))
        if answer.value and answer.value[0].at == 1 and isinstance(answer.value[0].error, NoNodeError):
            made = Create(folder, b"", self._rights)  # raised as well, for who saw that there was none
            answer = await self._client.multi(self._client.pack([divided, made, SetData(folder, b"", 0), node]))
        _permitted(answer, folder)
        return answer

    async def _first(self, shard: int) -> tuple[str, Node] | None:
        queue = await self._queue(shard)
        return queue[0] if queue else None

    async def _queue(self, shard: int) -> list[tuple[str, Node]]:
        """The nodes of all contenders, the holder's first."""
        folder = self._folder(shard)
        paths = [f"{folder}/{name}" for name in contenders(await self._client.children(folder))]
        nodes = values_of(await self._client.reads(paths)) if paths else []
        return [(path, node) for path, node in zip(paths, nodes, strict=True) if node is not None]

    async def _read(self) -> Picture:
        answer = await self._client.reads([self._shards])
        (count,) = values_of(answer)
        self._said = Said(count_of(count.value), count.version) if count is not None else Said(None, 0)
        if count is None:
            return Picture(None, {}, answer.zxid)
        shards = sorted(int(name) for name in await self._client.children(self._shards) if name.isdigit())
        listed = lists_of(await self._client.reads([], [self._folder(shard) for shard in shards])) if shards else []
        places = [
            (shard, f"{self._folder(shard)}/{name}")
            for shard, names in zip(shards, listed, strict=True)
            for name in contenders(names or ())
        ]
        nodes = values_of(await self._client.reads([path for _, path in places])) if places else []
        queues: dict[int, list[tuple[str, Node]]] = {}
        for (shard, path), node in zip(places, nodes, strict=True):
            if node is not None:
                queues.setdefault(shard, []).append((path, node))
        return Picture(count_of(count.value), {shard: _lot(queue) for shard, queue in queues.items()}, answer.zxid)

    async def _made(self, *ops: Op) -> Failed | None:
        """What made the transaction fail, None: it was made. Raises Denied."""
        answer = await self._client.multi(self._client.pack(ops))
        _permitted(answer, self._whole)
        return answer.value[0] if answer.value else None

    def _folder(self, shard: int) -> str:
        return f"{self._shards}/{shard}"


async def noted(client: Client, path: str, content: bytes, before: Note | None, fence: Sequence[Check]) -> Note:
    """Puts a note, as its writer. Raises Superseded, Denied, and Conflict where it is not what it was."""
    if before is None:
        folder = path.rpartition("/")[0]
        await acl.ensure(client, folder)
        await noting(client, path, [*fence, Create(path, content, await acl.inherited(client, folder))], fence)
        return Note(content, 0)
    await noting(client, path, [*fence, SetData(path, content, before.version)], fence)
    return Note(content, before.version + 1)


async def noting(client: Client, path: str, ops: Sequence[Op], fence: Sequence[Check]) -> None:
    """Changes a note. Raises Superseded, Denied, and Conflict where it is not what it was."""
    answer = await client.multi(client.pack(ops))
    if not answer.value:
        return
    _permitted(answer, path)
    if superseded(fence, answer.value[0]):
        raise Superseded(f"the lock of the note {path} is not ours any more")
    raise Conflict(f"the note {path} is not what it was")


def _permitted(answer: Answer, path: str) -> None:
    if answer.value and isinstance(answer.value[0].error, NoAuthError):
        raise Denied(f"{path}: {answer.value[0].error or 'not allowed'}")


def _lot(queue: Sequence[tuple[str, Node]]) -> Lot:
    (_, first), *others = queue
    claims = tuple(Claim(f"{node.owner:x}", who_of(node.value), path) for path, node in others)
    return Lot(f"{first.owner:x}", who_of(first.value), first.mzxid, claims)
