"""An empty state folder is filled from another daemon of the bridge: what that one keeps, over its `bridge.listen`.

Without it a new host serves nothing until every source has answered, and its guard knows no last known good.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import msgspec

from bridge.adapter import Keeper
from bridge.config import kinds
from bridge.config.schema import Configuration
from bridge.destination.roll import KEY, Daemon
from bridge.errors import ConfigError, IsthmusError, Unavailable, reason
from bridge.state.files import replace
from bridge.state.folder import claim
from bridge.state.formats import DEED, FORMAT, Deed

log = logging.getLogger("isthmus.seed")

PATH = "/seed"
LOOK = 10.0  # seconds that the registry of `bridge.seat` has to name the others
FETCH = 30.0  # seconds for one seed
LARGEST = 1 << 30  # bytes of a seed, unpacked

# What a host knows of the world and not of itself: never the journal, the accepted file or a lock.
_FILES = re.compile(r"known/[^/]+\.log|exports/[^/]+\.sqlite|(copies|shared|decisions|over|told)\.json")


def is_empty(folder: Path) -> bool:
    """Whether nothing was ever kept there."""
    return not any(_kept(folder))


def pack(folder: Path) -> bytes:
    """What a folder has to give, to be called when all that waits is on the disk. Waits for the disk."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as tar:
        for name in (DEED, *_kept(folder)):
            content = _snapshot(folder / name)
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return made.getvalue()


def unpack(folder: Path, seed: bytes, bridge: str) -> list[str]:
    """Puts a seed into an empty folder; the names of the files. Raises ConfigError where it is not ours to use."""
    try:
        with tarfile.open(fileobj=io.BytesIO(seed), mode="r:gz") as tar:
            members = [one for one in tar if one.isfile() and (one.name == DEED or _FILES.fullmatch(one.name))]
            if sum(one.size for one in members) > LARGEST:
                raise ConfigError(f"the seed has more than {LARGEST} bytes")
            files = {one.name: found.read() for one in members if (found := tar.extractfile(one)) is not None}
        deed = msgspec.json.decode(files.pop(DEED, b""), type=Deed)
    except (tarfile.TarError, OSError, EOFError, msgspec.DecodeError) as error:
        raise ConfigError(f"it is no seed: {error}") from error
    if (deed.bridge, deed.format) != (bridge, FORMAT):
        raise ConfigError(
            f"the seed is of the bridge {deed.bridge!r} in format {deed.format}; this is {bridge!r} in format {FORMAT}"
        )
    claim(folder, bridge)
    for name, content in files.items():
        (folder / name).parent.mkdir(mode=0o700, exist_ok=True)
        replace(folder / name, content)
    return sorted(files)


async def fetch(url: str, token: str) -> bytes:
    """The seed of the daemon there. Raises Unavailable, ConfigError (it knows us not)."""
    headers = {"Authorization": f"Bearer {token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FETCH)) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            if answer.status in (401, 403):
                raise ConfigError(
                    f"{url} answers {answer.status}: the token of bridge.token_file must be the same there"
                )
            if answer.status != 200:
                raise Unavailable(f"{url} answers {answer.status}")
            return await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unavailable(f"{url} does not answer: {reason(error)}") from error


async def fill(configuration: Configuration, folder: Path) -> None:
    """Before a daemon starts: an empty folder is filled from a daemon that the seat names, if any answers."""
    bridge = configuration.bridge
    if bridge.seat is None or bridge.token_file is None or not is_empty(folder):
        return
    try:
        token = (await asyncio.to_thread(Path(bridge.token_file).read_text)).strip()
        for daemon in await _others(configuration):
            try:
                names = unpack(folder, await fetch(daemon.seeds, token), bridge.id)
            except IsthmusError as error:
                log.warning("no seed from=%s reason=%r", daemon.process.host, reason(error))
                continue
            log.info("seeded from=%s files=%d", daemon.process.host, len(names))
            return
    except (IsthmusError, OSError, TimeoutError) as error:
        log.warning("no seed: bridge.seat names nobody reason=%r", reason(error))


async def _others(configuration: Configuration) -> list[Daemon]:
    """Who may have a seed, whoever spoke last first. Raises what the registry does, TimeoutError."""
    name = configuration.bridge.seat or ""
    block = configuration.registries[name]
    async with asyncio.timeout(LOOK), kinds.make(name, block.kind, block.options, None) as registry:
        notes = await registry.notes(configuration.bridge.id).below(KEY) if isinstance(registry, Keeper) else {}
    found = []
    for note in notes.values():
        try:
            found.append(msgspec.json.decode(note.content, type=Daemon))
        except msgspec.DecodeError:
            continue
    return sorted((one for one in found if one.seeds), key=lambda one: -one.at)


def _kept(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and _FILES.fullmatch(name := path.relative_to(folder).as_posix()):
            yield name


def _snapshot(path: Path) -> bytes:
    if path.suffix != ".sqlite":
        return path.read_bytes()
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as disk,
        closing(sqlite3.connect(":memory:")) as copy,
    ):
        disk.backup(copy)  # with what its log has, which a copy of the file would lack
        return copy.serialize()
