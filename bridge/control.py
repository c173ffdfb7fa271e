"""The admin socket: one JSON line asks, one answers; who asks is told by the kernel."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pwd
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from bridge.disk import why
from bridge.errors import ConfigError, IsthmusError, Unavailable

log = logging.getLogger("isthmus.control")

LONGEST = 1024 * 1024  # bytes of a request
PATIENCE = 10.0  # seconds that a client may take to send one
ANSWERS = 60.0  # seconds that a daemon may take to answer
LONGEST_PATH = 107  # bytes that the kernel takes for a socket's address


class Peer(msgspec.Struct, frozen=True):
    """Who asks, as the kernel says."""

    uid: int
    pid: int

    def __str__(self) -> str:
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = "?"
        return f"uid={self.uid} pid={self.pid} user={user}"


Command = Callable[[dict[str, Any], Peer], Awaitable[Any]]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a client sends."""

    command: str
    arguments: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it gets: a result, or an error with the exit code that fits it."""

    ok: bool
    result: Any = None
    error: str = ""
    code: int = 0


class NoDaemonError(IsthmusError):
    """Nobody answers at the socket."""


@contextlib.asynccontextmanager
async def serve(path: Path, commands: Mapping[str, Command]) -> AsyncIterator[None]:
    """Answers at the socket while inside. Where there can be none, that is logged and the daemon runs without.

    A command's IsthmusError, LookupError or ValueError is its answer, anything else is a bug, answered and logged.
    """
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        talks.add(task)
        try:
            await _answer_all(reader, writer, commands)
        except (OSError, TimeoutError, asyncio.CancelledError):
            log.debug("the client left")
        finally:
            talks.discard(task)
            writer.close()

    try:
        listening = _bound(path)
    except OSError as error:
        log.error("no socket path=%s reason=%r", path, why(error))
        yield
        return
    server = await asyncio.start_unix_server(talk, sock=listening, limit=LONGEST)
    try:
        yield
    finally:
        server.close()
        _remove(path)
        for task in list(talks):
            task.cancel()
        if talks:
            await asyncio.wait(talks)
        await server.wait_closed()


def _bound(path: Path) -> socket.socket:
    """A socket at that path, in the place of one whose daemon was killed; raises OSError where one still answers."""
    if len(bytes(path)) > LONGEST_PATH:
        raise OSError(0, f"the path is longer than {LONGEST_PATH} bytes; choose a shorter bridge.state", str(path))
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
            raise OSError(0, "another daemon answers there", str(path))
        except ConnectionRefusedError:
            path.unlink()
        except FileNotFoundError:
            pass
    listening = socket.socket(socket.AF_UNIX)
    try:
        listening.bind(str(path))
        path.chmod(0o600)  # nobody came in before this: the folder is 0700
    except OSError:
        listening.close()
        raise
    return listening


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


async def _answer_all(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Mapping[str, Command]
) -> None:
    peer = _peer(writer.get_extra_info("socket"))
    while True:
        try:
            async with asyncio.timeout(PATIENCE):
                line = await reader.readline()
        except ValueError:
            await _send(writer, Answer(ok=False, error=f"the request is longer than {LONGEST} bytes", code=2))
            return
        if not line:
            return
        await _send(writer, await _answer(line, peer, commands))


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    try:
        text = msgspec.json.encode(answer)
    except TypeError as error:
        log.exception("bug in an answer")
        text = msgspec.json.encode(Answer(ok=False, error=f"bug: {error}", code=1))
    writer.write(text + b"\n")
    await writer.drain()


async def _answer(line: bytes, peer: Peer, commands: Mapping[str, Command]) -> Answer:
    try:
        request = msgspec.json.decode(line, type=Request)
    except msgspec.DecodeError as error:
        return Answer(ok=False, error=f"no request: {error}", code=2)
    command = commands.get(request.command)
    if command is None:
        known = ", ".join(sorted(commands))
        return Answer(ok=False, error=f"no command {request.command!r}; this daemon has {known}", code=2)
    try:
        return Answer(ok=True, result=await command(request.arguments, peer))
    except ConfigError as error:
        return Answer(ok=False, error=str(error), code=2)
    except (IsthmusError, LookupError, ValueError) as error:
        return Answer(ok=False, error=str(error.args[0] if error.args else error), code=1)
    except Exception as error:
        log.exception("bug command=%s", request.command)
        return Answer(ok=False, error=f"bug: {type(error).__name__}: {error}", code=1)


def _peer(connection: socket.socket) -> Peer:
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return Peer(uid, pid)


def call(path: Path, command: str, *, within: float = ANSWERS, **arguments: Any) -> Any:
    """Asks a running daemon and returns the result, `within` so many seconds.

    Raises NoDaemonError where none answers, Unavailable where it may not be asked or went away, ConfigError and
    Unavailable for what the daemon refuses (codes 2 and 1).
    """
    request = msgspec.json.encode(Request(command, arguments)) + b"\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(within)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoDaemonError(f"no daemon answers at {path}; start one with `isthmus run FILE`") from None
        except OSError as error:
            raise Unavailable(f"{path}: {why(error)}") from None
        try:
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                line = answers.readline()
        except TimeoutError:
            raise Unavailable(f"the daemon at {path} has not answered for {within:.0f} s; is it stopped?") from None
        except OSError as error:
            raise Unavailable(f"the daemon went away: {why(error)}") from None
    if not line.endswith(b"\n"):
        raise Unavailable("the daemon went away before it answered")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.ok:
        return answer.result
    raise (ConfigError if answer.code == 2 else Unavailable)(answer.error)
