"""The supervisor hears what it must, and the daemon does not care whether it listens."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.daemon.systemd import Notifier


@pytest.fixture(params=["file", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    address = str(tmp_path / "notify") if request.param == "file" else f"@isthmus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address.replace("@", "\0", 1))
        listening.settimeout(20)
        yield listening, address


def test_the_supervisor_hears_every_word(supervisor: tuple[socket.socket, str]) -> None:
    listening, address = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())})
    assert notifier.interval == 10.0
    notifier.ready()
    notifier.status("all links\nin step")
    notifier.status("all links\nin step")
    notifier.watchdog()
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.stopping()
    heard = [listening.recv(4096).decode() for _ in range(5)]
    assert heard[:3] == ["READY=1", "STATUS=all links in step", "WATCHDOG=1"]
    word, _, stamp = heard[3].partition("\nMONOTONIC_USEC=")
    assert word == "RELOADING=1"
    assert before <= int(stamp) <= time.monotonic_ns() // 1000
    assert heard[4] == "STOPPING=1"


@pytest.mark.parametrize(
    "env", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}]
)
def test_without_a_watchdog_of_ours_there_is_no_interval(env: dict[str, str]) -> None:
    assert Notifier(env).interval is None


def test_a_supervisor_that_is_gone_or_full_stops_nothing(tmp_path: Path) -> None:
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        for turn in range(5000):
            notifier.status(str(turn))
