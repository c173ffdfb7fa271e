"""What people see while they look: a screen that follows, colours, dates of the log, and what is refused plainly."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from tests.commands.conftest import Pair
from tests.kit.running import ROOT
from tests.kit.waiting import until
from tests.servers import ports

ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
DESCRIPTORS = 1024
IDLE = 1100  # connections: more than the daemon may have descriptors
FOR_TWO = IDLE * 2  # descriptors of this process while it opens them
PATIENCE = 10.0  # seconds until a connection is given up
LINES = 200  # of the daemon's log


async def test_status_follows_until_it_is_interrupted(pair: Pair) -> None:
    async with pair.bridge as bridge:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.cli.main", "status", "-f", str(bridge.file), "--watch"),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdout is not None
        screens = 0
        async for line in child.stdout:
            screens += line.startswith(b"b1  isthmus ")
            if screens == 2:
                break
        child.send_signal(signal.SIGINT)
        await child.stdout.read()
        assert await child.wait() == 0


async def test_a_terminal_gets_colour_and_a_pipe_does_not(pair: Pair) -> None:
    async with pair.bridge as bridge:
        assert (await bridge.isthmus("freeze", "--all", "--reason", "r")).code == 0
        assert "\x1b[" not in (await bridge.isthmus("status")).out
        ours, theirs = os.openpty()
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bridge.cli.main", "status", "-f", str(bridge.file)), cwd=ROOT, stdout=theirs
        )
        os.close(theirs)
        said = await asyncio.to_thread(_all_of, ours)
        assert await child.wait() == 3
    assert b"\x1b[31mact: link-frozen" in said


def _all_of(terminal: int) -> bytes:
    found = b""
    try:
        while part := os.read(terminal, 65536):
            found += part
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return found


async def test_the_log_takes_dates_and_an_end(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    rows = (await pair.bridge.isthmus("log", "--since", "2020-01-01", "-o", "json")).json
    assert len([row for row in rows if row["kind"] == "add"]) == 5
    for words in (("--since", "2020-01-01", "--until", "2020-01-02T14:30"), ("--since", "2999-01-01")):
        assert (await pair.bridge.isthmus("log", *words, "-o", "json")).json == []
    assert (await pair.bridge.isthmus("log", "--since", "1h", "--until", "2999-01-01", "-o", "json")).json == rows
    ran = await pair.bridge.isthmus("log", "--since", "yesterday")
    assert ran.code == 2 and "yesterday" in ran.err


async def test_the_log_of_an_unknown_link_names_the_links_there_are(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    ran = await pair.bridge.isthmus("log", "--link", "nowhere")
    assert ran.code == 2
    assert "'nowhere' is no link of" in ran.err and "inventory-to-cluster" in ran.err


@ROOT_ONLY
async def test_a_log_that_this_user_may_not_read_says_so(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("run", "--once")).code == 0
    pair.bridge.file.parent.chmod(0o711)
    pair.bridge.file.chmod(0o644)
    words = ["isthmus", "log", "-f", str(pair.bridge.file)]
    code = (  # the interpreter itself need not be readable for that user, so all is imported before
        "import os, sys; import bridge.cli.main as cli, bridge.cli.status; "
        f"os.setgroups([]); os.setgid(54321); os.setuid(54321); sys.argv = {words!r}; cli.main()"
    )
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code),
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await child.communicate()
    assert child.returncode == 4, err
    assert b"is closed to this user: bridge.access says who may ask" in err and b"Traceback" not in err


async def test_a_hold_that_is_over_is_not_approved_and_it_is_said(pair: Pair) -> None:
    pair.bridge.links[0]["guard"] = {"confirm_event": "1h", "confirm_absence": "1h"}
    pair.bridge.write()
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        pair.inventory.unset("pay-db")
        await until(bridge.holds, "the guard holds it")
        (hold,) = await bridge.holds()
        assert (await bridge.isthmus("approve", hold["id"], "--reason", "r")).code == 0
        await until(lambda: not pair.copies().get("pay-db"), "it goes")
        ran = await bridge.isthmus("approve", hold["id"], "--reason", "r")
        assert ran.code == 1
        assert f"nothing of {hold['id']} is held any more" in ran.err


async def test_a_plan_says_what_is_frozen_by_whom_and_why(pair: Pair) -> None:
    assert (await pair.bridge.isthmus("freeze", "inventory-to-cluster", "--reason", "CHG-3")).code == 0
    ran = await pair.bridge.isthmus("plan")
    assert "frozen" in ran.out and "CHG-3" in ran.out and f"uid={os.getuid()}" in ran.out


@contextmanager
def descriptors(wanted: int) -> Iterator[None]:
    """So many for this process, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_idle_connections_starve_no_daemon_with_few_descriptors(pair: Pair) -> None:
    (port,) = ports.reserve(1)
    pair.bridge.bridge["listen"] = f"127.0.0.1:{port}"
    pair.bridge.descriptors = DESCRIPTORS
    pair.bridge.write()
    async with pair.bridge as bridge:
        await until(pair.copied, "everything is copied")
        with descriptors(FOR_TWO), ExitStack() as stack:
            for _ in range(IDLE):
                one = stack.enter_context(socket.socket())
                one.settimeout(PATIENCE)
                with suppress(OSError):
                    one.connect(("127.0.0.1", port))
            pair.inventory.set("pay-new", n1="192.0.2.61")
            await until(pair.copied, "changes go on")
            assert (await bridge.isthmus("status")).code == 0
            assert len(bridge.log.splitlines()) < LINES, bridge.log[-2000:]
    ports.release([port])
