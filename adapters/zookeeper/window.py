"""The requests in flight on one connection: bounded in number, answered in order, with a timeout."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from adapters.zookeeper.connection import Connection
from adapters.zookeeper.replies import Answer, error_of
from bridge.errors import IsthmusError

WINDOW = 64  # requests in flight; kazoo broke at 64k (Platform.sh, 2016-08-18)

Post = Callable[..., None]


class _Asked:
    """The receiver of one answer: kazoo calls it once, in a thread of its own."""

    __slots__ = ("_connection", "_window", "future", "request")
    _connection: Connection

    def __init__(self, window: Window, request: Any, future: asyncio.Future[Answer]) -> None:
        self._window = window
        self.request = request
        self.future = future

    def send(self, connection: Connection) -> None:
        self._connection = connection
        connection.send(self.request, self)

    def set(self, value: Any = None) -> None:
        self._window.post(self._window.answered, self, Answer(value, self._connection.last_zxid), None)

    def set_exception(self, error: Exception) -> None:
        self._window.post(self._window.answered, self, None, error)


class Window:
    """Requests and their answers.

    `post` calls a function on the event loop, from any thread. `give_up(reason)` is called when a server that owes
    answers has given none for `patience` seconds.
    """

    def __init__(self, hosts: str, chroot: str, post: Post, give_up: Callable[[str], None], patience: float) -> None:
        self.post = post
        self._hosts = hosts
        self._chroot = chroot
        self._give_up = give_up
        self._patience = patience
        self._flying: dict[_Asked, None] = {}
        self._queue: deque[tuple[Connection, _Asked]] = deque()
        self._progress = 0.0  # when the last answer came
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, connection: Connection, request: Any) -> asyncio.Future[Answer]:
        """Sends a request after all earlier ones, when there is room."""
        loop = asyncio.get_running_loop()
        asked = _Asked(self, request, loop.create_future())
        if len(self._flying) >= WINDOW:
            self._queue.append((connection, asked))
            return asked.future
        self._send(connection, asked)
        if self._timer is None:
            self._progress = loop.time()
            self._timer = loop.call_later(self._patience / 8, self._look)
        return asked.future

    def answered(self, asked: _Asked, answer: Answer | None, error: Exception | None) -> None:
        """One request has its answer."""
        if asked not in self._flying:
            return
        del self._flying[asked]
        self._progress = asyncio.get_running_loop().time()
        while self._queue and len(self._flying) < WINDOW:
            self._send(*self._queue.popleft())
        if asked.future.done():
            return
        if error is not None:
            asked.future.set_exception(error_of(error, getattr(asked.request, "path", ""), self._chroot))
        elif answer is not None:
            asked.future.set_result(answer)

    def fail(self, error: IsthmusError) -> None:
        """The connection is lost: all requests in flight fail."""
        asked = [*self._flying, *(one for _, one in self._queue)]
        self._flying.clear()
        self._queue.clear()
        for one in asked:
            if not one.future.done():
                one.future.set_exception(error)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, connection: Connection, asked: _Asked) -> None:
        self._flying[asked] = None
        asked.send(connection)

    def _look(self) -> None:
        """Gives up a server that answers heartbeats alone, or nothing (safety fault 4)."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if not self._flying:
            return
        if loop.time() - self._progress < self._patience:
            self._timer = loop.call_later(self._patience / 8, self._look)
        else:
            self._give_up(f"{self._hosts}: no answer for {self._patience:.0f} s")
