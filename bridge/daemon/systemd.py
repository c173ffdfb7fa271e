"""Tells the supervisor (systemd, or whoever gives a NOTIFY_SOCKET) how the daemon does; silent where there is none."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """See sd_notify(3). A supervisor that does not listen is no reason to stop: nothing here waits or raises.

    `interval`: the watchdog wants a word so often, in seconds (half of what it allows); None: it wants none.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        path = env.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        usec = env.get("WATCHDOG_USEC", "")
        ours = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.interval = int(usec) / 2e6 if ours and usec.isdigit() and int(usec) else None
        self._status = ""

    def ready(self) -> None:
        """The daemon serves; also said when a reload is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon ends in good order."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        if text != self._status:
            self._status = text
            self._send("STATUS=" + " ".join(text.splitlines()))

    def watchdog(self) -> None:
        """The loop runs; to be said every `interval` at least."""
        if self.interval is not None:
            self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(text.encode(), self._address)
