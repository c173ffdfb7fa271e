"""How a daemon starts: the file, or the last one that was accepted, its state folder, and then the loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
from pathlib import Path

import uvloop

from bridge.config import load as config
from bridge.config.document import Document
from bridge.config.schema import Configuration
from bridge.daemon import ending, seeding
from bridge.daemon.daemon import Daemon
from bridge.errors import ConfigError
from bridge.state import folder as state

log = logging.getLogger("isthmus.daemon")


def start(path: Path, *, once: bool = False, ephemeral: bool = False) -> int:
    """Runs the daemon and returns the exit code; a file with faults gives way to the last accepted one, loudly."""
    try:
        text = Document.read(path).text
        configuration = _parsed(path, text, ephemeral)
    except ConfigError as error:
        accepted = _last_accepted(path)
        if accepted is None:
            raise
        for fault in error.faults:
            log.critical("broken file=%s fault=%r", path, fault)
        text = accepted.text
        configuration = _parsed(path, text, ephemeral)
        log.critical("runs the last accepted file instead hash=%s", configuration.hash)
    if once:
        _refuse_leased(configuration)
    for warning in configuration.warnings:
        log.warning("warning %s", warning)
    folder = None if ephemeral or configuration.bridge.state is None else Path(configuration.bridge.state)
    if folder is not None:
        asyncio.run(seeding.fill(configuration, folder))
    with state.opened(folder, configuration.bridge.id) as kept:
        kept.accept(path, configuration.hash, text)
        # What lives long here is values without cycles, a hundred thousand of them: the collector is to look rarely.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        daemon = Daemon(path, configuration, kept)  # which reads from the disk, and so not on the loop
        daemon.ends = _bounded
        # A change goes through a dozen turns of the loop, and each costs asyncio's own as much as a small step of ours.
        return uvloop.run(daemon.run(once=once))


def _bounded() -> None:
    ending.bounded(asyncio.get_running_loop())


def _refuse_leased(configuration: Configuration) -> None:
    leased = [link.name for link in configuration.links if link.ttl is not None]
    if leased:
        raise ConfigError(
            f"{configuration.path}: {', '.join(leased)}: leased entries would die after --once; write lifetime: lasting"
        )


def _parsed(path: Path, text: str, ephemeral: bool) -> Configuration:
    return config.parse(path, Document(str(path), text), os.environ, ephemeral=ephemeral)


def _last_accepted(path: Path) -> state.Accepted | None:
    """The last accepted file, in the state folder that the broken one still names, or that systemd gave us."""
    folders = [os.environ["STATE_DIRECTORY"]] if "STATE_DIRECTORY" in os.environ else []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        # The file may be no YAML at all, so this is a search and not a reading.
        found = re.search(r"^\s+state:\s*['\"]?([^'\"#\n]+?)['\"]?\s*(#.*)?$", path.read_text("utf-8"), re.MULTILINE)
        folders += [found[1]] if found else []
    for folder in reversed(folders):
        accepted = state.State(path.absolute().parent / folder).accepted()
        if accepted is not None:
            return accepted
    return None
