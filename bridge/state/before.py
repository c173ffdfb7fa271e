"""What stood at a destination before a link wrote there for the first time: one file a link, for people and `diff`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from bridge import __version__
from bridge.adapter import Entry
from bridge.errors import ConfigError
from bridge.formats import format_of
from bridge.model import Instance, ServiceName
from bridge.state.files import replace, why

log = logging.getLogger("isthmus.state")

FOLDER = "before"
FORMAT = 1
MOST = 200_000  # instances in one file
PATIENCE = 5.0  # seconds that a first write waits for a disk that hangs

Instances = Mapping[ServiceName, Mapping[str, Instance]]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file. `at`: seconds since the epoch; `complete`: nothing was left out (`MOST`)."""

    format: int = FORMAT
    version: str = ""
    link: str
    to: str
    at: float
    complete: bool = True


class Line(msgspec.Struct, frozen=True):
    """Each further line: a service, and what stood under its name, by id; without secrets."""

    service: str
    instances: dict[str, Instance]


class Before:
    """The files of one state folder; None: there is none, and nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder / FOLDER if folder is not None else None
        self._writing: set[asyncio.Task[None]] = set()  # which nobody waits for any more

    async def keep(
        self, link: str, to: str, owner: str, entries: Mapping[ServiceName, Mapping[str, Entry]],
        scrub: Callable[[Instance], Instance],
    ) -> None:  # fmt: skip
        """Keeps what stands now, if this link has never written; no disk keeps anybody from writing for long."""
        if self._folder is None or any(_wrote(one, owner, link) for some in entries.values() for one in some.values()):
            return  # it has written: with a version that kept no such files, or at another host
        path = _path(self._folder, link)
        complete = sum(map(len, entries.values())) <= MOST
        head = Head(version=__version__, link=link, to=to, at=time.time(), complete=complete)
        found = {name: {key: entry.instance for key, entry in some.items()} for name, some in entries.items() if some}

        def write() -> None:
            if not path.exists():
                path.parent.mkdir(mode=0o700, exist_ok=True)
                replace(path, b"".join(_lines(head, found, scrub)))

        self._writing = self._writing | {writing := asyncio.create_task(_written(write, link))}
        await asyncio.wait({writing}, timeout=PATIENCE)
        self._writing = {one for one in self._writing if not one.done()}


async def _written(write: Callable[[], None], link: str) -> None:
    try:
        await asyncio.to_thread(write)
    except OSError as error:
        log.warning("unkept what=before link=%s reason=%r", link, why(error))


def read(folder: Path, link: str) -> tuple[Head, Instances]:
    """Raises ConfigError where nothing is kept of this link, or what is there cannot be read."""
    path = _path(folder / FOLDER, link)
    if not path.exists():
        raise ConfigError(
            f"nothing is kept of before {link} wrote: it has not written yet, or did at another host, or with a "
            "version that kept nothing"
        )
    try:
        first, *lines = path.read_bytes().splitlines()
        format_of(str(path), first, FORMAT)
        head = msgspec.json.decode(first, type=Head)
        some = (msgspec.json.decode(line, type=Line) for line in lines)
        return head, {ServiceName.parse(one.service): one.instances for one in some}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _path(folder: Path, link: str) -> Path:
    return folder / f"{quote(link, safe='')}.jsonl"


def _wrote(entry: Entry, owner: str, link: str) -> bool:
    return entry.mark is not None and entry.mark.owner == owner and entry.mark.link == link


def _lines(head: Head, found: Instances, scrub: Callable[[Instance], Instance]) -> Iterator[bytes]:
    yield msgspec.json.encode(head) + b"\n"
    left = MOST
    for name in sorted(found):
        some = {key: comparable(scrub(one)) for key, one in sorted(found[name].items())[:left]}
        left -= len(some)
        if some:
            yield msgspec.json.encode(Line(str(name), some)) + b"\n"


def comparable(instance: Instance) -> Instance:
    """Without what only its own convention understands, tokens among it."""
    return msgspec.structs.replace(instance, native={}) if instance.native else instance
