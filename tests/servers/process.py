"""One real server as a child process: started, ended and frozen by its process id, and never outliving the tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

READY_TIME = 150.0  # seconds to come up in, on a machine that is busy with other tests: nothing waits for it in vain
STOP_TIME = 30.0  # seconds that SIGTERM may take: above the 25 after which a daemon of ours says what it waits for
RUNNING: set[Process] = set()  # those whose logs are worth showing when a test fails


class NotReady(Exception):
    """The server ended or did not answer in time; the text holds the end of its log."""


class Process:
    """A server's process and its log. Everything but the command and the test for readiness is the same for all."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; an error where the server is not running."""
        assert self._child is not None, f"{self.name} is not running"
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process exists, frozen or not."""
        return self._child is not None and self._child.poll() is None

    @property
    def code(self) -> int:
        """How it ended: its exit code, or the negative number of the signal."""
        assert self._child is not None and self._child.returncode is not None, f"{self.name} has not ended"
        return self._child.returncode

    async def start(self, command: Sequence[str], ready: Callable[[], Awaitable[bool]], **environment: str) -> None:
        """Starts the process and returns when `ready` says so; raises NotReady."""
        assert not self.running, f"{self.name} is running already"
        # setpriv becomes the server itself and has the kernel kill it when this thread ends, however it ends; a
        # preexec_fn would run Python in a fork of a process that has gRPC's threads.
        setpriv = shutil.which("setpriv")
        before = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(
                [*before, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | environment,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests, which then end the servers
            )
        RUNNING.add(self)
        deadline = time.monotonic() + READY_TIME
        while not await ready():
            if not self.running:
                raise NotReady(f"{self.name} ended with {self._child.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                await self.kill()
                raise NotReady(f"{self.name} was not ready after {READY_TIME:.0f} s:\n{self.tail()}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough; nothing where it is not running."""
        if self.running:
            self._signal(signal.SIGCONT)
            self._signal(signal.SIGTERM)
            if not await self._ended(STOP_TIME):
                await self.kill()
        RUNNING.discard(self)

    async def kill(self) -> None:
        """SIGKILL: a crash; nothing where it is not running."""
        if self.running:
            self._signal(signal.SIGKILL)
            assert await self._ended(STOP_TIME), f"{self.name} survived SIGKILL"
        RUNNING.discard(self)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open and nobody answers; returns when its last thread has stopped."""
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT: it goes on where it was frozen."""
        self._signal(signal.SIGCONT)

    def tail(self, size: int = 4000) -> str:
        """The end of the log."""
        with contextlib.suppress(FileNotFoundError):
            return self.log.read_bytes()[-size:].decode(errors="replace")
        return ""

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def _ended(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return not self.running


async def said(port: int, request: bytes, host: str = "127.0.0.1") -> bytes:
    """All that a port of this machine answers to one request; nothing where it does not."""
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                return await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return b""
