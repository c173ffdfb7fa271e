"""ZooKeeper for asyncio: one session at a time, requests as awaitables, events to listeners in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from kazoo.protocol import serialization
from kazoo.security import ACL, Id

from adapters.common.credentials import ended
from adapters.common.disk import Question
from adapters.zookeeper import wire
from adapters.zookeeper.config import Config
from adapters.zookeeper.connection import ANSWER_LIMIT, Connection
from adapters.zookeeper.replies import Answer, Disconnected, lists_of, values_of
from adapters.zookeeper.times import TIMES, Times
from adapters.zookeeper.window import Window
from adapters.zookeeper.wire import Acl
from bridge.adapter import Credential
from bridge.errors import Denied, Expired, IsthmusError, Unavailable


class Carried(Protocol):
    """A session that outlives this process, on disk."""

    async def take(self) -> tuple[int, bytes] | None:
        """Id and password of the kept session, None: there is none. Never fails; waits some seconds for the disk."""

    def keep(self, session: int, password: bytes) -> None:
        """Keeps this session. Does not wait."""

    def forget(self) -> None:
        """The session has ended. Does not wait."""


class Listener(Protocol):
    """Called on the event loop, in the order in which the server sent events and answers; must not wait."""

    def connected(self) -> None: ...

    def disconnected(self) -> None: ...

    def lost(self, reason: str) -> None: ...

    def told(self, kind: int, path: str) -> None: ...


class Client:
    """One session at a time with an ensemble, begun when it is first needed; used from one event loop.

    `carried`: the session to resume. Nothing is sent twice: requests in flight when the connection is lost fail
    with Disconnected.
    """

    def __init__(
        self,
        config: Config,
        carried: Carried | None = None,
        answer_limit: int = ANSWER_LIMIT,
        times: Times = TIMES,
    ) -> None:
        self._times = times
        hosts, self.chroot = config.ensemble()
        self.hosts = ",".join(hosts)
        self.session = 0
        self.granted = config.session_timeout  # seconds of silence after which the server ends the session
        self.credential: str | None = None  # `user:password`, as of the last connection
        self._config = config
        self._outlives = False  # the session must not be closed at the end
        self._carried = carried
        self._credential = Question(config.auth.credential, "auth.password_file") if config.auth is not None else None
        self._beginning = asyncio.Lock()
        self._answer_limit = answer_limit
        self._connection: Connection | None = None
        self._up = False
        self._since = 0.0  # when the connection was lost, or first requested (the loop's time)
        self._refused = ""
        self._closed = False
        self._notified = asyncio.Event()  # set and replaced at every change of the connection
        self._listeners: list[Listener] = []
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._awake = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._window = Window(self.hosts, self.chroot, self.post, self._give_up, times.answer)
        self._closing: set[asyncio.Task[None]] = set()

    # The session.

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return self._up

    @property
    def silence(self) -> float:
        """For how long the server may not have heard from us, in seconds: it expires the session after `granted`."""
        return time.monotonic() - self._connection.answered_at if self._connection is not None else float("inf")

    async def connected(self) -> None:
        """Waits for a connection; raises Unavailable after `Times.connection`, or Denied."""
        if self._up:
            return
        connection = self._connection
        if connection is not None and connection.answered_at and self.silence > self.granted:
            # The session has expired at every server. A new one also forgets the last transaction seen: kazoo sends
            # it when it connects, and a restored or emptied store would refuse us for ever.
            self.lost("the session has expired")
        self._refused = ""
        if self._connection is None:
            await self._begin()
        try:
            async with asyncio.timeout_at(self._since + self._times.connection):
                while not self._up:
                    if self._refused:
                        raise Denied(f"{self.hosts}: {self._refused}")
                    if self._connection is None:
                        await self._begin()
                    elif not self._connection.answered_at and self._connection.failures >= self.hosts.count(",") + 1:
                        raise TimeoutError  # there has never been a session to wait for
                    await self._notified.wait()
        except TimeoutError:
            trouble = self._connection.trouble if self._connection is not None else ""
            why = f"no connection to {self.hosts}: {trouble or 'no answer'}"
            for each in self.credentials():
                if ended(each):  # whatever the server said when it closed the connection
                    raise Denied(f"{why}: {each.what} {ended(each)}") from None
            raise Unavailable(why) from None

    def credentials(self) -> list[Credential]:
        """The certificate that was shown last."""
        shown = self._connection.shown if self._connection is not None else None
        return [shown] if shown is not None else []

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Adds a listener; returns the function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def carry(self) -> None:
        """From now on the session is not closed at the end, for entries die with it; the next process resumes it."""
        self._outlives = True
        if self._carried is not None and self._connection is not None:
            self._carried.keep(self.session, self._connection.password)

    async def close(self) -> None:
        """Closes the session. A carried one expires by itself after `granted` seconds, unless it is resumed."""
        self._closed = True
        connection, self._connection = self._connection, None
        self._down(Unavailable("closed"))
        if connection is not None:
            self._retire(connection, keep=self._outlives)
        while self._closing:
            await asyncio.wait(self._closing)

    # Requests.

    async def call(self, request: Any) -> Answer:
        """One request. Raises Disconnected, Expired, Denied, Unavailable, or an error of kazoo's about the node."""
        await self.connected()
        return await self.submit(request)

    def submit(self, request: Any) -> asyncio.Future[Answer]:
        """Sends a request after all earlier ones, when the window has room. Fails as `call` does."""
        if self._connection is None or not self._up:
            future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            future.set_exception(Disconnected(f"no connection to {self.hosts}"))
            return future
        return self._window.submit(self._connection, request)

    def reads(self, values: Sequence[str] = (), lists: Sequence[str] = ()) -> asyncio.Future[Answer]:
        """Values (Node) and children (list of names), all as of one transaction; None for nodes that do not exist."""
        return self.submit(wire.MultiRead(self.chroot, values, lists))

    def multi(self, packed: bytes) -> asyncio.Future[Answer]:
        """A transaction of packed operations (`pack`). The answer lists what failed (`wire.Failed`), if anything."""
        return self.submit(wire.Multi(packed))

    def pack(self, ops: Iterable[wire.Op]) -> bytes:
        """Serialises operations."""
        return b"".join([op.pack(self.chroot) for op in ops])

    async def watch(self, *paths: str) -> None:
        """Watches these paths and all below them, for the listeners, until the connection is lost."""
        await asyncio.gather(*[self.submit(wire.AddWatch(self._at(path))) for path in paths])

    async def exists(self, path: str) -> bool:
        """Whether a node exists."""
        return (await self.call(serialization.Exists(self._at(path), None))).value is not None

    async def sync(self, path: str) -> None:
        """Later reads are no older than this call, whichever server answers them."""
        await self.call(serialization.Sync(self._at(path)))

    async def get(self, path: str) -> bytes | None:
        """The value of a node, None: it does not exist."""
        await self.connected()
        (node,) = values_of(await self.reads([path]))
        return None if node is None else node.value

    async def children(self, path: str) -> list[str]:
        """The names of a node's children; none where it does not exist."""
        await self.connected()
        (names,) = lists_of(await self.reads([], [path]))
        return names or []

    async def create(self, path: str, value: bytes, acl: Sequence[Acl], flags: int = wire.PERSISTENT) -> str:
        """The path of the new node, which differs for sequential ones; raises NodeExistsError and so on."""
        rights = [ACL(perms, Id(scheme, id)) for perms, scheme, id in acl]
        made = (await self.call(serialization.Create(self._at(path), value, rights, flags))).value
        return str(made)[len(self.chroot) :]

    async def set(self, path: str, value: bytes) -> None:
        """Writes a value, whatever the version."""
        await self.call(serialization.SetData(self._at(path), value, -1))

    async def delete(self, path: str) -> None:
        """Deletes a node, whatever the version. Raises NoNodeError and so on."""
        await self.call(serialization.Delete(self._at(path), -1))

    async def acl(self, path: str) -> list[Acl]:
        """The ACL of a node. Raises NoNodeError and so on."""
        rights, _ = (await self.call(serialization.GetACL(self._at(path)))).value
        return [(right.perms, right.id.scheme, right.id.id) for right in rights]

    def _at(self, path: str) -> str:
        return self.chroot + path if path != "/" else self.chroot or "/"

    # Calls from the connection's threads, in the order in which the server sent them.

    def post(self, function: Callable[..., None], *arguments: Any) -> None:
        """Calls a function on the event loop, from any thread; many calls share one wake-up."""
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

    async def _begin(self) -> None:
        """Makes the connection unless another task has. Raises Denied, and Unavailable once closed."""
        async with self._beginning:
            if self._connection is not None:
                return
            if self._closed:
                raise Unavailable("closed")
            self._loop = asyncio.get_running_loop()
            self._since = self._loop.time()
            resume = await self._carried.take() if self._carried is not None else None
            if self._credential is not None:
                self.credential = await self._credential.answer()
            self._dial(resume)

    def _dial(self, resume: tuple[int, bytes] | None) -> None:
        if self._closed:
            raise Unavailable("closed")
        self._outlives = resume is not None
        events = _Events(self)
        self._connection = events.connection = Connection(
            self.hosts + self.chroot,
            events=events,
            post=self.post,
            tls=self._config.tls,
            credential=self.credential,
            session_timeout=self._config.session_timeout,
            resume=resume,
            answer_limit=self._answer_limit,
        )
        self._connection.begin()

    def heard_connected(self, session: int, granted: float) -> None:
        """The session is established."""
        self.session, self.granted = session, granted
        self._up = True
        self.notify()
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
        """Events of nodes."""
        for listener in tuple(self._listeners):
            for kind, path in events:
                listener.told(kind, path)

    def _down(self, error: IsthmusError) -> None:
        if self._up and self._loop is not None:
            self._since = self._loop.time()
        self._up = False
        self.notify()
        self._window.fail(error)

    def notify(self) -> None:
        """Wakes all that wait for a connection."""
        self._notified.set()
        self._notified = asyncio.Event()

    def _retire(self, connection: Connection, keep: bool) -> None:
        task = asyncio.ensure_future(asyncio.to_thread(connection.end, keep=keep))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _give_up(self, reason: str) -> None:
        """Drops a connection that answers nothing any more."""
        if self._connection is not None:
            self._connection.drop(reason)
            self._down(Unavailable(reason))


class _Events:
    """Passes on the events of the current connection; those of an earlier one are ignored."""

    def __init__(self, client: Client) -> None:
        self.connection: Connection | None = None
        self._client = client

    @property
    def _heard(self) -> bool:
        return self.connection is self._client._connection

    def failed(self) -> None:
        if self._heard:
            self._client.notify()

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
