"""Whether whoever runs a command that needs no daemon may run it, by `bridge.access`."""

from __future__ import annotations

import os
from pathlib import Path

from bridge.admin import access
from bridge.admin.access import NEEDS
from bridge.admin.client import call
from bridge.admin.protocol import NoDaemonError, RefusedError
from bridge.config.schema import Configuration
from bridge.errors import ConfigError, Unavailable

ANSWERS = 5.0  # seconds that a daemon may take; without its answer the command judges by itself


def permitted(configuration: Configuration, command: str, by: str | None) -> None:
    """Raises RefusedError where that is an administrator's, and this user is none.

    A daemon that runs here judges, and has it in its journal. This keeps honest people from mistakes: whoever may read
    the file and its secrets can write to the registries without any command.
    """
    if configuration.bridge.state is None:
        return
    folder = Path(configuration.bridge.state)
    try:
        call(folder / "admin.sock", "permit", within=ANSWERS, by=by, what=command)
        return
    except (NoDaemonError, Unavailable, ConfigError):
        pass  # there is none, it is stopped, or it is older than this question
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    groups = frozenset((os.getgid(), *os.getgroups()))
    if not access.may(configuration.bridge.access, os.getuid(), groups, owner).on_all(access.Right.ADMIN):
        need = NEEDS[command]
        raise RefusedError(f"not permitted: {command} needs may: [{need.right}]: {need.over}; see bridge.access")
