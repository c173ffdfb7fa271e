"""A changed file is taken over as a whole or refused as a whole, one after the other."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bridge import __version__
from bridge.config import load as config
from bridge.config.document import Document
from bridge.config.schema import Configuration
from bridge.daemon.systemd import Notifier
from bridge.engine.engine import Engine, Prepared
from bridge.errors import ConfigError
from bridge.state.files import whole
from bridge.state.folder import State
from bridge.state.journal import Journal

log = logging.getLogger("isthmus.daemon")

FIXED = ("id", "state", "listen")  # keys of `bridge` that a running daemon cannot change


class Refusal(NamedTuple):
    """A file that was not taken over: when (seconds since the epoch), and why not."""

    at: float
    faults: tuple[str, ...]


class Reload:
    """Reads the file again when it is asked to. `refused`: the last attempt failed, None: it did not."""

    def __init__(self, path: Path, engine: Engine, kept: State, journal: Journal, notifier: Notifier) -> None:
        self.refused: Refusal | None = None
        self._path = path
        self._engine = engine
        self._kept = kept
        self._journal = journal
        self._notifier = notifier
        self.taken: Callable[[], None] = lambda: None  # called when a file is taken over, and before that is kept
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """A signal's part: `run` does it. Signals that come meanwhile are one more attempt, and not many."""
        self._asked.set()

    async def run(self) -> None:
        """Reloads whenever that was asked for; never returns."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self.now()
            except Exception:
                log.debug("the reload failed, which has been said")

    async def now(self) -> str:
        """Takes the file over and returns its hash; raises ConfigError, and everything runs on as before.

        Whoever asks while a reload is under way waits for it, and then has the file read that is there by then.
        """
        async with self._turn:
            self._notifier.reloading()
            try:
                found = await whole(self._take_over())
                self.refused = None
                return found
            except ConfigError as error:
                self._refuse(error.faults)
                raise
            except Exception as error:
                log.exception("bug in a reload file=%s", self._path)
                self._refuse((f"a bug, please report it with the log: {type(error).__name__}: {error}",))
                raise
            finally:
                self._notifier.ready()

    async def _take_over(self) -> str:
        old = self._engine.configuration
        prepared, text = await asyncio.to_thread(self._prepared, old)
        fresh = prepared.configuration
        await self._engine.switch(prepared)
        self.taken()
        await self._kept.flush()
        await asyncio.to_thread(self._kept.accept, self._path, fresh.hash, text)
        for warning in fresh.warnings:
            log.warning("warning %s", warning)
        log.info("reloaded file=%s hash=%s", self._path, fresh.hash)
        self._journal.append(
            "config", reason=f"reloaded: {old.hash} -> {fresh.hash}", file=fresh.hash, version=__version__
        )
        return fresh.hash

    def _prepared(self, old: Configuration) -> tuple[Prepared, str]:
        """In a thread: a file, a password's file or a certificate may stand on a disk that hangs."""
        document = Document.read(self._path)
        fresh = config.parse(self._path, document, os.environ, ephemeral=self._kept.folder is None)
        for key in FIXED:
            if getattr(fresh.bridge, key) != getattr(old.bridge, key):
                document.fault(("bridge", key), "cannot change while the daemon runs; restart it, or put it back")
        if document.faults:
            raise ConfigError(*document.faults)
        return self._engine.prepare(fresh), document.text

    def _refuse(self, faults: tuple[str, ...]) -> None:
        self.refused = Refusal(time.time(), faults)
        for fault in faults:
            log.error("refused file=%s fault=%r", self._path, fault)
        self._journal.append("misfile", reason=f"refused: {'; '.join(faults)}")
