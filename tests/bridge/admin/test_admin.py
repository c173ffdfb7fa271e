"""The admin socket: who asks is known, who may not cannot, and nobody can hold the daemon up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from bridge.admin import server
from bridge.admin.client import call
from bridge.admin.protocol import LONGEST, NoDaemonError, Peer
from bridge.admin.server import serve
from bridge.errors import ConfigError, Unavailable
from tests.kit.disks import crowd, fill, hung, remount, tiny
from tests.kit.waiting import steady, until


async def echo(arguments: dict[str, Any], peer: Peer) -> Any:
    return {"arguments": arguments, "by": str(peer)}


async def refuse(_: dict[str, Any], __: Peer) -> Any:
    raise LookupError("nothing is held under 'x'")


async def bad_file(_: dict[str, Any], __: Peer) -> Any:
    raise ConfigError("line 1", "line 2")


async def broken(_: dict[str, Any], __: Peer) -> Any:
    raise ZeroDivisionError("oops")


async def strange(_: dict[str, Any], __: Peer) -> Any:
    return object()


COMMANDS = {"echo": echo, "refuse": refuse, "bad-file": bad_file, "broken": broken, "strange": strange}


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[Path]:
    async with serve(tmp_path / "admin.sock", COMMANDS):
        yield tmp_path / "admin.sock"


async def ask(path: Path, command: str, **arguments: Any) -> Any:
    return await asyncio.to_thread(call, path, command, **arguments)


async def raw(path: Path, *lines: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.writelines(lines)
    writer.write_eof()
    answers = (await reader.read()).splitlines()
    writer.close()
    return answers


async def test_a_command_gets_its_arguments_and_who_asks(path: Path) -> None:
    answer = await ask(path, "echo", id="x", number=2)
    assert answer["arguments"] == {"id": "x", "number": 2}
    assert answer["by"].startswith(f"uid={os.getuid()} pid={os.getpid()} user=")


async def test_the_kernel_says_who_asks_and_not_the_client(path: Path) -> None:
    script = (
        "from bridge.admin.client import call; from pathlib import Path; "
        f"print(call(Path({str(path)!r}), 'echo')['by'])"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=subprocess.PIPE)
    said, _ = await process.communicate()
    assert f"pid={process.pid} " in said.decode()


async def test_the_socket_is_for_its_user_alone(path: Path) -> None:
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_what_the_daemon_refuses_is_said_with_the_fitting_error(path: Path) -> None:
    with pytest.raises(Unavailable, match="nothing is held under 'x'"):
        await ask(path, "refuse")
    with pytest.raises(ConfigError, match="line 1\nline 2"):
        await ask(path, "bad-file")
    with pytest.raises(ConfigError, match="no command 'nope'; this daemon has bad-file, broken, echo"):
        await ask(path, "nope")


async def test_a_bug_in_a_command_is_answered_and_the_next_one_works(path: Path) -> None:
    with pytest.raises(Unavailable, match=r"a bug of the daemon.*: ZeroDivisionError: oops"):
        await ask(path, "broken")
    with pytest.raises(Unavailable, match="bug"):
        await ask(path, "strange")
    assert await ask(path, "echo")


async def test_several_requests_go_over_one_connection_and_nonsense_is_answered(path: Path) -> None:
    first, second, third = await raw(path, b'{"command":"echo"}\n', b"nonsense\n", b'{"command":"echo","x":1}\n')
    assert first.startswith(b'{"ok":true,"result":{')
    assert second.startswith(b'{"ok":false,"error":"this is no request')
    assert b"unknown field" in third


async def test_a_request_without_end_is_cut_off(path: Path) -> None:
    (answer,) = await raw(path, b"x" * (LONGEST + 10) + b"\n")
    assert b"is longer than" in answer


async def test_a_client_that_says_nothing_is_left_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with serve(path, COMMANDS, patience=0.05):
        reader, writer = await asyncio.open_unix_connection(path)
        assert await ask(path, "echo")
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


async def test_the_daemon_stops_although_a_client_hangs(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    started = asyncio.Event()

    async def endless(_: dict[str, Any], __: Peer) -> Any:
        started.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        async with serve(path, {"endless": endless}):
            asking = asyncio.create_task(ask(path, "endless"))
            await started.wait()
        with pytest.raises(Unavailable, match="the daemon went away"):
            await asking
    assert not path.exists()


async def test_where_no_daemon_is_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError, match="no daemon answers at"):
        call(tmp_path / "admin.sock", "status")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "admin.sock"))
    with pytest.raises(NoDaemonError):
        call(tmp_path / "admin.sock", "status")


async def test_the_socket_of_a_killed_daemon_is_taken_over_and_a_living_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve(path, COMMANDS):
        assert await ask(path, "echo")
        async with serve(path, {}):
            assert "another daemon answers there" in caplog.text
            assert await ask(path, "echo")
        assert await ask(path, "echo")


async def test_a_folder_that_takes_no_socket_does_not_stop_the_daemon(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(tmp_path / "none" / "admin.sock", COMMANDS):
        assert "no socket" in caplog.text
    async with serve(tmp_path / ("x" * 120) / "admin.sock", COMMANDS):
        assert "is longer than 107 bytes" in caplog.text


async def test_idle_clients_do_not_keep_a_command_out(path: Path) -> None:
    idle = [await asyncio.open_unix_connection(path) for _ in range(server.CONNECTIONS + 20)]
    assert await ask(path, "echo")
    ended = [asyncio.create_task(reader.read()) for reader, _ in idle[:20]]
    await asyncio.wait_for(asyncio.wait(ended), 20)
    assert not idle[-1][0].at_eof()
    for _, writer in idle:
        writer.close()


async def test_a_socket_that_somebody_removed_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    async with serve(folder / "admin.sock", COMMANDS, look=0.02):
        (folder / "admin.sock").unlink()
        await until((folder / "admin.sock").exists, "it is made again")
        assert await ask(folder / "admin.sock", "echo")
        (folder / "admin.sock").unlink()
        folder.rmdir()
        await until(lambda: "no socket" in caplog.text, "there is no place for it")
        folder.mkdir()
        await until((folder / "admin.sock").exists, "the folder is back, and the socket")
        assert await ask(folder / "admin.sock", "echo")
        assert [one.levelname for one in caplog.records].count("ERROR") == 1
    assert not (folder / "admin.sock").exists()


@contextlib.contextmanager
def full(folder: Path) -> Iterator[None]:
    ballast = fill(folder)
    yield
    ballast.unlink()


@contextlib.contextmanager
def crowded(folder: Path) -> Iterator[None]:
    ballast = crowd(folder)
    yield
    for path in ballast:
        path.unlink()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    remount(folder, "ro")
    yield
    remount(folder, "rw")


Sick = Callable[[Path], AbstractContextManager[None]]


@pytest.mark.parametrize("sick", [full, crowded, read_only])
async def test_commands_are_answered_through_a_sick_disk(tmp_path: Path, sick: Sick) -> None:
    with tiny(tmp_path / "state", inodes=16) as folder:
        path = folder / "admin.sock"
        async with serve(path, COMMANDS, look=0.02) as place:
            connected = await asyncio.open_unix_connection(path)

            async def answered() -> bool:
                connected[1].write(b'{"command":"echo"}\n')
                return b'"ok":true' in await connected[0].readline() and bool(await ask(path, "echo"))

            with sick(folder):
                assert await steady(answered, 0.3)  # in which somebody looks whether the socket's file is there
                assert place.listens
            assert await steady(answered, 0.1)
            connected[1].close()


@pytest.mark.parametrize(("sick", "said"), [(crowded, "No space left on device"), (read_only, "Read-only file system")])
async def test_a_disk_that_takes_no_socket_gets_one_when_it_is_well_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sick: Sick, said: str
) -> None:
    with tiny(tmp_path / "state", inodes=16) as folder, contextlib.ExitStack() as illness:
        path = folder / "admin.sock"
        illness.enter_context(sick(folder))
        async with serve(path, COMMANDS, look=0.02) as place:

            async def reached() -> bool:
                return place.listens

            assert not await steady(reached, 0.2)
            assert [one.levelname for one in caplog.records].count("ERROR") == 1 and said in caplog.text
            illness.close()
            await until(reached, "there is room for it")
            assert await ask(path, "echo")


async def test_a_disk_that_is_taken_away_takes_no_connection_with_it(tmp_path: Path) -> None:
    """Its folder is there, and empty; commands find the socket there again."""
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "admin.sock"
    with contextlib.ExitStack() as mounted:
        mounted.enter_context(tiny(tmp_path / "state"))
        async with serve(path, COMMANDS, look=0.02):
            reader, writer = await asyncio.open_unix_connection(path)
            mounted.close()
            await until(path.exists, "it is made again")
            assert await ask(path, "echo")
            writer.write(b'{"command":"echo"}\n')
            assert b'"ok":true' in await reader.readline()
            writer.close()


async def test_who_is_connected_is_answered_while_the_disk_of_the_socket_hangs(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    async with serve(folder / "admin.sock", COMMANDS, look=0.02):
        reader, writer = await asyncio.open_unix_connection(folder / "admin.sock")

        async def answered() -> bool:
            writer.write(b'{"command":"echo"}\n')
            return b'"ok":true' in await reader.readline()

        with hung(folder):
            assert await steady(answered, 0.3)  # in which somebody looks whether the socket's file is there
        assert await ask(folder / "admin.sock", "echo")
        writer.close()
