"""Writes the files of upstreams, has nginx test them, takes back what it refuses, and reloads when bytes changed."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from adapters.common.picture import Picture
from adapters.nginx.apply import REQUEST, Result
from adapters.nginx.files import END, OURS, bring, replace
from bridge.adapter import Client, Concern, Entry, Trace
from bridge.errors import Unavailable
from bridge.model import Instance, ServiceName

log = logging.getLogger("isthmus.nginx")

ANSWER_TIME = 60.0  # seconds in which a path unit has tested and reloaded
LOOK = 0.1  # seconds between looks at what it says

Files = Callable[[ServiceName, Mapping[str, Instance]], Mapping[str, bytes]]


INCLUDED = "nginx reads it: delete it and reload nginx, once no `proxy_pass` names its upstream"


class Commands:
    """The folder that nginx includes is ours: files are tested by one command, and loaded by another."""

    def __init__(self, folder: Path, test: Sequence[str], reload: Sequence[str]) -> None:
        self.folder = folder
        self.name = " ".join(reload)
        self._test = test
        self._reload = reload

    async def bring(self, wanted: Mapping[str, bytes]) -> bool:
        """Has nginx hold these files; whether it was reloaded. Raises OSError, SubprocessError or Unavailable."""
        return await asyncio.to_thread(bring, self.folder, wanted, self._test, self._reload)


class Unit:
    """A path unit of root's watches the folder, takes the files over (`apply`), and says what became of them.

    `result`: where it says that. A request is made where files changed, where the last one failed, and once at the
    start: nobody knows what root's folder holds.
    """

    def __init__(self, folder: Path, result: Path) -> None:
        self.folder = folder
        self.name = f"path unit on {folder / REQUEST}"
        self._result = result
        self._number = 0
        self._done: Mapping[str, bytes] | None = None

    async def bring(self, wanted: Mapping[str, bytes]) -> bool:
        """See `Commands.bring`. Raises Unavailable also where nobody takes the files over."""
        if self._done == wanted:
            return False
        self._number += 1
        request = f"{os.getpid()}-{time.time_ns()}-{self._number}"
        await asyncio.to_thread(_hand_over, self.folder, wanted, request)
        found = await self._answer(request)
        if found.wrong:
            raise Unavailable(found.wrong)
        self._done = dict(wanted)
        return found.reloaded

    async def _answer(self, request: str) -> Result:
        deadline = time.monotonic() + ANSWER_TIME
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(_said, self._result)
            if found is not None and found.request == request:
                return found
            await asyncio.sleep(LOOK)
        raise Unavailable(f"{self._result} says nothing of what was asked: is isthmus-nginx.path enabled?")


class Writing:
    """The folder. `files(name, instances)`: the files of a service, by upstream; `by`: how nginx comes to hold them."""

    def __init__(self, picture: Picture, files: Files, by: Commands | Unit, every: float) -> None:
        self._picture = picture
        self._files = files
        self._by = by
        self._every = every
        self._wrong = ""  # what the last try met, "" if nothing
        self._loaded = 0.0  # seconds since the epoch of the last reload

    @property
    def clients(self) -> Sequence[Client]:
        """nginx, once it was told."""
        if not (self._loaded or self._wrong):
            return ()
        refused = {"files": self._wrong} if self._wrong else {}
        where = str(self._by.folder)
        return [Client(name=self._by.name, address=where, since=self._loaded, seen=self._loaded, refused=refused)]

    @property
    def notes(self) -> Sequence[str]:
        """Where it writes, and what went wrong."""
        said = [f"writes {self._by.folder}/*{END}, reloads at most every {self._every:g} s"]
        return [*said, f"warning: {self._wrong}"] if self._wrong else said

    @property
    def concerns(self) -> Sequence[Concern]:
        """See `Concerned`: what nginx refuses is said as a client's refusal."""
        return ()

    def left(self) -> list[Trace]:
        """The files of ours, which nginx goes on to read. Raises OSError."""
        found = [path for path in sorted(self._by.folder.glob(f"*{END}")) if path.read_bytes().startswith(OURS)]
        return [Trace("file", str(path), INCLUDED) for path in found]

    async def serve(self) -> None:
        """Never returns. Raises Unavailable where the folder cannot be written, or a command fails."""
        while True:
            standing = self._picture.standing
            if self._picture.complete:
                await self._bring(wanted(self._picture.services, self._files))
                await asyncio.sleep(self._every)
            await self._picture.newer(standing)

    async def _bring(self, wanted: Mapping[str, bytes]) -> None:
        try:
            if await self._by.bring(wanted):
                log.info("reloaded folder=%s upstreams=%d", self._by.folder, len(wanted))
                self._loaded = time.time()
            self._loaded = self._loaded or time.time()
            self._wrong = ""
        except (OSError, subprocess.SubprocessError, Unavailable) as error:
            self._wrong = str(error)
            raise Unavailable(self._wrong) from error


def _hand_over(folder: Path, wanted: Mapping[str, bytes], request: str) -> None:
    """The folder holds these files, and the request that they are taken over comes last."""
    for path in folder.glob(f"*{END}"):
        if path.stem not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = folder / f"{name}{END}"
        if not path.exists() or path.read_bytes() != content:
            replace(folder, name, content)
    draft = folder / f"{REQUEST}.new"
    draft.write_text(request)
    draft.replace(folder / REQUEST)


def _said(result: Path) -> Result | None:
    try:
        return msgspec.json.decode(result.read_bytes(), type=Result)
    except (OSError, msgspec.DecodeError):
        return None


def wanted(services: Mapping[ServiceName, Mapping[str, Entry]], files: Files) -> dict[str, bytes]:
    """The file of each upstream; of two services with one name that of the lesser, at every daemon."""
    found: dict[str, bytes] = {}
    for name in sorted(services, reverse=True):
        entries = services[name]
        found.update(files(name, {id: entries[id].instance for id in sorted(entries)}))
    return found
