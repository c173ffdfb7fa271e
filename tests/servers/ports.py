"""Ports of 127.0.0.1, reserved across all processes that run these tests, so that a server comes back to its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

# Below the kernel's ephemeral ports (net.ipv4.ip_local_port_range): nobody is given one of these by chance, and a
# client that keeps dialling a dead server cannot end up connected to itself.
PORTS = range(15000, 32000)

# One byte for each port, locked as long as it is ours: the kernel gives it back when the process ends, however it ends.
# So it is a bare descriptor, which nobody closes: a file object would be told to be unclosed at the end of the process.
_locks = os.open(Path(tempfile.gettempdir()) / f"isthmus-ports-{os.getuid()}", os.O_WRONLY | os.O_CREAT, 0o666)
_ours: set[int] = set()


def reserve(count: int, among: Sequence[int] = PORTS) -> list[int]:
    """Ports on which nobody listens and which no other test process is given before `release`."""
    reserved: list[int] = []
    for port in random.sample(among, len(among)):
        if len(reserved) == count:
            break
        if port not in _ours and _locked(port):
            if _free(port):
                _ours.add(port)
                reserved.append(port)
            else:
                _unlock(port)
    return reserved


def release(ports: Iterable[int]) -> None:
    """Gives ports back."""
    for port in ports:
        _ours.discard(port)
        _unlock(port)


def _locked(port: int) -> bool:
    with contextlib.suppress(OSError):
        fcntl.lockf(_locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        return True
    return False


def _unlock(port: int) -> None:
    fcntl.lockf(_locks, fcntl.LOCK_UN, 1, port)


def _free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        return True
    return False
