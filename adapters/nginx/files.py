"""The files of upstreams in a folder: written beside and renamed, tested, taken back whole if the test refuses them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridge.errors import Unavailable
from mappings.nginx import nobody

END = ".conf"
DUE = ".isthmus-reload"  # there while files were written that nginx may not have loaded
OURS = b"# written by isthmus"  # the first bytes of each of our files: others are never touched
COMMAND_TIME = 30.0  # seconds that a command may take


def bring(folder: Path, wanted: Mapping[str, bytes], test: Sequence[str], reload: Sequence[str]) -> bool:
    """Makes the folder hold these files; whether nginx was reloaded. What the test refuses is taken back whole.

    The file of an upstream that is not wanted any more stays, with a server that is down: a `proxy_pass` may name it,
    and nginx starts with no name missing.
    """
    before = {path.stem: path.read_bytes() for path in folder.glob(f"*{END}")}
    ours = {name: content for name, content in before.items() if content.startswith(OURS)}
    after = {name: nobody(name) for name in ours} | dict(wanted)
    changed = {name: content for name, content in after.items() if before.get(name) != content}
    if taken := sorted(changed.keys() & (before.keys() - ours.keys())):
        raise Unavailable(f"{folder / taken[0]}{END} is there and was not written by isthmus: move it away")
    due = folder / DUE
    if not (changed or due.exists()):
        return False
    due.touch()
    for name, content in changed.items():
        replace(folder, name, content)
    try:
        _run(test)
    except (OSError, subprocess.SubprocessError, Unavailable):
        for name in changed:
            if name in before:
                replace(folder, name, before[name])
            else:
                (folder / f"{name}{END}").unlink()
        raise
    _run(reload)
    due.unlink()
    return True


def replace(folder: Path, name: str, content: bytes) -> None:
    """Written beside and renamed; nginx includes no name that begins with a dot."""
    fresh = folder / f".{name}.new"
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / f"{name}{END}")
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise


def _run(command: Sequence[str]) -> None:
    # The operator's own words, from a file that the operator alone writes.
    done = subprocess.run(  # noqa: S603
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIME, check=False
    )
    if done.returncode:
        said = " ".join(done.stderr.split())[-500:]
        raise Unavailable(f"{' '.join(command)} ended with {done.returncode}: {said or 'it says nothing'}")
