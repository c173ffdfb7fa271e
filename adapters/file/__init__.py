"""A folder of YAML files as a registry: one file a service, watched by the kernel's notifications.

`folder` says how files are named, `mappings.file` what stands in them. Each bridge writes files of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Self

import msgspec

from adapters.file import folder, lock
from adapters.file.sink import FileSink
from adapters.file.source import FileSource
from bridge.adapter import Reach, Source
from bridge.errors import Undecodable
from bridge.model import Instance, ServiceName, Traits

TRAITS = Traits(frozenset(Instance.__struct_fields__), namespaces=True, leases=False)


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`path`: of a folder that is there. `rescan`: seconds after which everything is looked at again."""

    path: str
    rescan: Annotated[float, msgspec.Meta(gt=0)] = 10.0


class FileRegistry:
    """One folder. `source`: its one scope, whose `ignored` says what cannot be read."""

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.traits = TRAITS
        self.source = FileSource(config.path, config.rescan)
        self._config = config

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def scopes(self) -> AsyncIterator[Source]:
        """The folder, and then no more."""
        yield self.source

    def sink(self, bridge: str) -> FileSink:
        """The files of this bridge in the folder."""
        return FileSink(self._config.path, self._config.rescan, self.traits, bridge)

    async def reach(self) -> Reach:
        """Who the folder is and what the file system lets us do. Raises Unavailable or Denied."""
        try:
            return await asyncio.to_thread(_reach, self._config.path)
        except OSError as error:
            raise folder.trouble(error) from error

    async def raw(self, name: ServiceName) -> dict[str, str]:
        """The files of one service, by path. Raises Unavailable or Denied."""
        try:
            return await asyncio.to_thread(_raw, self._config.path, name)
        except OSError as error:
            raise folder.trouble(error) from error


def create(name: str, config: Config, state: Path | None) -> FileRegistry:
    """The registry of a folder, which need not be there yet."""
    return FileRegistry(name, config)


def _reach(root: str) -> Reach:
    identity, _ = folder.who(root)
    readable, writable = (os.access(root, mode | os.X_OK) for mode in (os.R_OK, os.W_OK))
    locks = folder.locks(root).items()
    writers = frozenset(bridge for bridge, path in locks if lock.is_held(os.path.join(root, path)))
    return Reach(identity, "files", readable, writable, writers=writers)


def _raw(root: str, name: ServiceName) -> dict[str, str]:
    texts = {}
    for path in folder.paths_of(root, {name}):
        try:
            text = folder.read(root, path)[1].decode(errors="replace")
        except (OSError, Undecodable) as error:
            text = str(error)
        texts[os.path.join(root, path)] = text
    return texts
