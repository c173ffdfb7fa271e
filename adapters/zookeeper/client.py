"""ZooKeeper for asyncio: requests as awaitables with a bounded window, and listeners that hear events in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from kazoo.protocol import serialization
from kazoo.security import ACL, Id

from adapters.zookeeper import wire
from adapters.zookeeper.answers import Answer, Disconnected, error_of, lists_of, values_of
from adapters.zookeeper.config import Config
from adapters.zookeeper.connection import ANSWER_LIMIT, Connection
from adapters.zookeeper.wire import Acl
from bridge.errors import Denied, Expired, IsthmusError, Unavailable

WINDOW = 64  # requests in flight: kazoo died of 64k (Platform.sh, 2016-08-18)
PATIENCE = 10.0  # seconds without a connection
ANSWER_TIME = 8.0  # seconds without any answer while one is owed


class Carried(Protocol):
    """A session that is to outlive this process."""

    def take(self) -> tuple[int, bytes] | None:
        """Its id and password."""

    def keep(self, session: int, password: bytes) -> None:
        """This is the one."""

    def forget(self) -> None:
        """It has ended."""


class Listener(Protocol):
    """Called in the thread of the event loop, in the order of the wire, answers to requests included; must not wait."""

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def lost(self, reason: str) -> None: ...

    def told(self, kind: int, path: str) -> None: ...


class _Asked:
    """What kazoo gives the answer to, once, in a thread of its own."""

    __slots__ = ("_client", "_connection", "future", "request")
    _connection: Connection

    def __init__(self, client: Client, request: Any, future: asyncio.Future[Answer]) -> None:
        self._client = client
        self.request = request
        self.future = future

    def send(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(self.request, self)

    def set(self, value: Any = None) -> None:
        self._client.post(self._client.answered, self, Answer(value, self._connection.last_zxid), None)

    def set_exception(self, error: Exception) -> None:
        self._client.post(self._client.answered, self, None, error)


class Client:
    """One session at a time with an ensemble, begun when it is first needed; used from one event loop.

    `carried`: the session to go on with. Nothing is sent twice: what was under way when the connection is lost fails
    with Disconnected.
    """

    def __init__(
        self,
        config: Config,
        carried: Carried | None = None,
        answer_limit: int = ANSWER_LIMIT,
    ) -> None:
        hosts, self.chroot = config.ensemble()
        self.hosts = ",".join(hosts)
        self.session = 0
        self.granted = config.session_timeout  # seconds of silence after which the server ends the session
        self.credential: str | None = None  # `user:password`, as of the last connection
        self._config = config
        self._outlives = False  # the session is not to end with us
        self._carried = carried
        self._answer_limit = answer_limit
        self._connection: Connection | None = None
        self._up = False
        self._since = 0.0  # when the connection was lost, or first asked for (the loop's time)
        self._refused = ""
        self._closed = False
        self._stirred = asyncio.Event()  # set, and replaced, with every change of the connection
        self._listeners: list[Listener] = []
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._awake = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flying: dict[_Asked, None] = {}
        self._queue: deque[_Asked] = deque()
        self._progress = 0.0  # when the last answer came
        self._timer: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    # The session.

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._up

    @property
    def silence(self) -> float:
        """For how many seconds the server may have heard nothing of us: it ends the session after `granted`."""
        return time.monotonic() - self._connection.word if self._connection is not None else float("inf")

    async def connected(self) -> None:
        """Waits for a connection; raises Unavailable after `PATIENCE`, or Denied."""
        if self._up:
            return
        connection = self._connection
        if connection is not None and connection.word and self.silence > self.granted:
            # No server can know this session any more. A new one also forgets the last transaction seen: kazoo says
            # it when it connects, and a store that was restored or emptied would refuse us for ever.
            self.lost("the session has expired")
        self._refused = ""
        if self._connection is None:
            self._begin()
        try:
            async with asyncio.timeout_at(self._since + PATIENCE):
                while not self._up:
                    if self._refused:
                        raise Denied(f"{self.hosts}: {self._refused}")
                    if self._connection is None:
                        self._begin()
                    elif not self._connection.word and self._connection.failures >= self.hosts.count(",") + 1:
                        raise TimeoutError  # a session that has never been is not worth waiting for
                    await self._stirred.wait()
        except TimeoutError:
            trouble = self._connection.trouble if self._connection is not None else ""
            raise Unavailable(f"no connection to {self.hosts}: {trouble or 'no answer'}") from None

    def listen(self, listener: Listener) -> Callable[[], None]:
        """From now on the listener hears everything; returns what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def carry(self) -> None:
        """From now on the session outlives this object, for nodes are to die with it; it is resumed if it can be."""
        self._outlives = True
        if self._carried is not None and self._connection is not None:
            self._carried.keep(self.session, self._connection.password)

    async def close(self) -> None:
        """Ends the session; one that is carried ends by itself, after `granted` seconds, unless it is resumed."""
        self._closed = True
        connection, self._connection = self._connection, None
        self._down(Unavailable("closed"))
        if connection is not None:
            self._retire(connection, keep=self._outlives)
        while self._closing:
            await asyncio.wait(self._closing)

    # Requests.

    async def call(self, request: Any) -> Answer:
        """One request; raises Disconnected, Expired, Denied, Unavailable, or what of kazoo's errors it is about."""
        await self.connected()
        return await self.submit(request)

    def submit(self, request: Any) -> asyncio.Future[Answer]:
        """Sends, or waits for room in the window, after everything submitted before; fails as `call` does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if self._connection is None or not self._up:
            future.set_exception(Disconnected(f"no connection to {self.hosts}"))
            return future
        asked = _Asked(self, request, future)
        if len(self._flying) >= WINDOW:
            self._queue.append(asked)
            return future
        self._send(self._connection, asked)
        if self._timer is None:
            self._progress = loop.time()
            self._timer = loop.call_later(ANSWER_TIME / 8, self._look)
        return future

    def reads(self, values: Sequence[str] = (), lists: Sequence[str] = ()) -> asyncio.Future[Answer]:
        """Values (Node) and children (list of names) of one moment, None for nodes that are not there."""
        return self.submit(wire.MultiRead(self.chroot, values, lists))

    def multi(self, packed: bytes) -> asyncio.Future[Answer]:
        """A transaction of what `pack` packed: the answer is a list with what failed (`wire.Failed`), if anything."""
        return self.submit(wire.Multi(packed))

    def pack(self, ops: Iterable[wire.Op]) -> bytes:
        """Operations as they go over the wire."""
        return b"".join([op.pack(self.chroot) for op in ops])

    async def watch(self, *paths: str) -> None:
        """Listeners are told of everything at and below these paths, until the connection is lost."""
        await asyncio.gather(*[self.submit(wire.AddWatch(self._at(path))) for path in paths])

    async def exists(self, path: str) -> bool:
        """Whether there is such a node."""
        return (await self.call(serialization.Exists(self._at(path), None))).value is not None

    async def sync(self, path: str) -> None:
        """What is read from now on is no older than this moment, whichever server we talk to."""
        await self.call(serialization.Sync(self._at(path)))

    async def get(self, path: str) -> bytes | None:
        """A value; None: there is no such node."""
        await self.connected()
        (node,) = values_of(await self.reads([path]))
        return None if node is None else node.value

    async def children(self, path: str) -> list[str]:
        """Names; none where there is no such node."""
        await self.connected()
        (names,) = lists_of(await self.reads([], [path]))
        return names or []

    async def create(self, path: str, value: bytes, acl: Sequence[Acl], flags: int = wire.PERSISTENT) -> str:
        """The path of the new node, which differs for sequential ones; raises NodeExistsError and so on."""
        rights = [ACL(perms, Id(scheme, id)) for perms, scheme, id in acl]
        made = (await self.call(serialization.Create(self._at(path), value, rights, flags))).value
        return str(made)[len(self.chroot) :]

    async def set(self, path: str, value: bytes) -> None:
        """Writes a value, whatever stands there."""
        await self.call(serialization.SetData(self._at(path), value, -1))

    async def delete(self, path: str) -> None:
        """Deletes a node, whatever stands there; raises NoNodeError and so on."""
        await self.call(serialization.Delete(self._at(path), -1))

    async def acl(self, path: str) -> list[Acl]:
        """Who may do what; raises NoNodeError and so on."""
        rights, _ = (await self.call(serialization.GetACL(self._at(path)))).value
        return [(right.perms, right.id.scheme, right.id.id) for right in rights]

    def _at(self, path: str) -> str:
        return self.chroot + path if path != "/" else self.chroot or "/"

    # What the connection's threads say, in the order of the wire.

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Has a function called in the event loop; from any thread, and one wake-up for many."""
        self._inbox.append((function, arguments))
        if not self._awake and self._loop is not None:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        self._awake = False
        while self._inbox:
            function, arguments = self._inbox.popleft()
            function(*arguments)

    def answered(self, asked: _Asked, answer: Answer | None, error: Exception | None) -> None:
        """One request has its answer."""
        if asked not in self._flying:
            return
        del self._flying[asked]
        self._progress = asyncio.get_running_loop().time()
        while self._queue and len(self._flying) < WINDOW and self._connection is not None:
            self._send(self._connection, self._queue.popleft())
        if asked.future.done():
            return
        if error is not None:
            asked.future.set_exception(error_of(error))
        elif answer is not None:
            asked.future.set_result(answer)

    def _begin(self) -> None:
        if self._closed:
            raise Unavailable("closed")
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        resume = self._carried.take() if self._carried is not None else None
        self._outlives = resume is not None
        if self._config.auth is not None:
            try:
                self.credential = self._config.auth.credential()
            except (OSError, ValueError) as error:
                raise Denied(f"cannot read the password: {error}") from None
        ear = _Ear(self)
        self._connection = ear.connection = Connection(
            self.hosts + self.chroot,
            ear=ear,
            post=self.post,
            tls=self._config.tls,
            credential=self.credential,
            session_timeout=self._config.session_timeout,
            resume=resume,
            answer_limit=self._answer_limit,
        )
        self._connection.begin()

    def heard_connected(self, session: int, granted: float) -> None:
        """The session stands."""
        self.session, self.granted = session, granted
        self._up = True
        self.stir()
        for listener in tuple(self._listeners):
            listener.connected()

    def disconnected(self) -> None:
        """The connection is lost."""
        self._down(Disconnected("the connection was lost"))
        for listener in tuple(self._listeners):
            listener.disconnected()

    def lost(self, reason: str) -> None:
        """The session is lost."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._refused = reason if connection.refused else ""
            self._retire(connection, keep=False)
        if self._carried is not None:
            self._carried.forget()
        self.session = 0
        self._down(Expired(reason))
        for listener in tuple(self._listeners):
            listener.lost(reason)

    def told(self, events: Sequence[tuple[int, str]]) -> None:
        """Something happened to nodes."""
        for listener in tuple(self._listeners):
            for kind, path in events:
                listener.told(kind, path)

    def _down(self, error: IsthmusError) -> None:
        if self._up and self._loop is not None:
            self._since = self._loop.time()
        self._up = False
        self.stir()
        asked = [*self._flying, *self._queue]
        self._flying.clear()
        self._queue.clear()
        for one in asked:
            if not one.future.done():
                one.future.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def stir(self) -> None:
        """Has everybody who waits for a connection look again."""
        self._stirred.set()
        self._stirred = asyncio.Event()

    def _retire(self, connection: Connection, keep: bool) -> None:
        task = asyncio.ensure_future(asyncio.to_thread(connection.end, keep=keep))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _send(self, connection: Connection, asked: _Asked) -> None:
        self._flying[asked] = None
        asked.send(connection)

    def _look(self) -> None:
        """A server that answers heartbeats and nothing else, or nothing at all, is given up (reliability, fault 4)."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._flying:
            return
        if loop.time() - self._progress < ANSWER_TIME:
            self._timer = loop.call_later(ANSWER_TIME / 8, self._look)
        elif self._connection is not None:
            reason = f"{self.hosts}: no answer for {ANSWER_TIME:.0f} s"
            self._connection.drop(reason)
            self._down(Unavailable(reason))


class _Ear:
    """What one connection says; nothing of one that was given up."""

    def __init__(self, client: Client) -> None:
        self.connection: Connection | None = None
        self._client = client

    @property
    def _heard(self) -> bool:
        return self.connection is self._client._connection

    def failed(self) -> None:
        if self._heard:
            self._client.stir()

    def connected(self, session: int, granted: float) -> None:
        if self._heard:
            self._client.heard_connected(session, granted)

    def disconnected(self) -> None:
        if self._heard:
            self._client.disconnected()

    def lost(self, reason: str) -> None:
        if self._heard:
            self._client.lost(reason)

    def told(self, events: Sequence[tuple[int, str]]) -> None:
        if self._heard:
            self._client.told(events)
