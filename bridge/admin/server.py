"""The admin socket of a daemon: it answers requests, and the kernel says who asks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import cast

import msgspec
from msgspec.structs import replace

from bridge.admin.protocol import (
    LONGEST,
    LONGEST_PATH,
    NOT_PERMITTED,
    Answer,
    Command,
    Peer,
    RefusedError,
    Request,
)
from bridge.errors import ConfigError, IsthmusError
from bridge.state.files import why

log = logging.getLogger("isthmus.admin")

PATIENCE = 10.0  # seconds that a client may take to send one
CONNECTIONS = 64  # open at once; one more closes the one that has been idle for longest
LOOK = 5.0  # seconds between two looks whether the socket is still there
SO_PEERGROUPS = 59  # the groups of a peer's process (Linux 4.13), which Python does not name
GROUPS = 1024  # bytes of them that Python takes, four each: of a process in more groups its own one counts
BACKLOG = 16  # connections that asyncio accepts in one go, before any of them can be closed again


Talker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class _Talk:
    """One connection. `busy`: a request of it is being answered."""

    busy = False


@contextlib.asynccontextmanager
async def serve(
    path: Path,
    commands: Mapping[str, Command],
    is_shared: Callable[[], bool] = lambda: False,
    *,
    patience: float = PATIENCE,
    look: float = LOOK,
) -> AsyncIterator[Place]:
    """Answers at the socket while inside. Where there can be none, that is logged and the daemon runs without.

    `is_shared`: whether others than its own user may ask; then its folder can be passed, and each peer is judged.

    A command's IsthmusError, LookupError or ValueError is its answer, anything else is a bug, answered and logged.
    """
    talks: dict[asyncio.Task[None], _Talk] = {}

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        if len(talks) >= CONNECTIONS:
            next((one for one, at in talks.items() if not at.busy), task).cancel()
        talks[task] = _Talk()
        try:
            await _answer_all(reader, writer, commands, talks[task], patience)
        except (OSError, TimeoutError, asyncio.CancelledError):
            log.debug("the client left")
        finally:
            del talks[task]
            writer.close()

    place = Place(path, talk, is_shared, look)
    await place.look()
    looking = asyncio.create_task(place.run())
    try:
        yield place
    finally:
        looking.cancel()
        for task in list(talks):
            task.cancel()
        await asyncio.wait({looking, *talks})
        await place.close()


class Place:
    """Where the socket is. It is made again where somebody removed it, or the folder around it, and gave that back."""

    def __init__(self, path: Path, talk: Talker, is_shared: Callable[[], bool], every: float) -> None:
        self._path = path
        self._every = every
        self._talk = talk
        self._is_shared = is_shared
        self._server: asyncio.Server | None = None
        self._mine: tuple[int, int] | None = None
        self._said = ""

    @property
    def listens(self) -> bool:
        """Whether commands reach it there, as far as the disk says."""
        return self._server is not None

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await asyncio.sleep(self._every)
            await self.look()

    async def look(self) -> None:
        """Listens at the path, unless that is so already; what prevents it is logged once.

        The disk is asked in threads: one that hangs stops nobody who is connected.
        """
        if self._server is not None and await asyncio.to_thread(_is_there, self._path, self._mine):
            with contextlib.suppress(OSError):  # whoever gets in is judged all the same
                await asyncio.to_thread(_open_to, self._path, self._is_shared())
            return
        if self._server is not None:
            log.warning("socket removed path=%s", self._path)
            self._server.close()
            self._server = None
        try:
            listening, self._mine = await asyncio.to_thread(_bound, self._path, self._is_shared())
            self._server = await asyncio.start_unix_server(self._talk, sock=listening, limit=LONGEST, backlog=BACKLOG)
        except OSError as error:
            if why(error) != self._said:
                self._said = why(error)
                log.error("no socket path=%s reason=%r", self._path, self._said)
            return
        if self._said:
            self._said = ""
            log.info("socket path=%s", self._path)

    async def close(self) -> None:
        """Stops listening; removes the socket if it is ours."""
        if self._server is not None:
            self._server.close()
            await asyncio.to_thread(_remove, self._path, self._mine)


def _inode(path: Path) -> tuple[int, int] | None:
    """Which file it is, None where there is none; raises OSError where the disk does not say."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _is_there(path: Path, mine: tuple[int, int] | None) -> bool:
    """Whether our socket is there; also where the disk fails, for whoever connects just then would be lost."""
    try:
        return _inode(path) == mine
    except OSError:
        return True


def _open_to(path: Path, is_shared: bool) -> None:
    """Lets other users reach the socket, who are judged one by one, or its own alone; raises OSError.

    They can pass its folder, and neither list it nor open anything else in it, all of which is its own user's alone.
    """
    for place, mode in ((path.parent, 0o711 if is_shared else 0o700), (path, 0o666 if is_shared else 0o600)):
        if stat.S_IMODE(place.stat().st_mode) != mode:
            place.chmod(mode)


def _bound(path: Path, is_shared: bool) -> tuple[socket.socket, tuple[int, int] | None]:
    """A socket at that path, in the place of one whose daemon was killed, and its inode.

    Raises OSError where one still answers.
    """
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
        _open_to(path, is_shared)
    except OSError:
        listening.close()
        raise
    return listening, _inode(path)


def _remove(path: Path, mine: tuple[int, int] | None) -> None:
    with contextlib.suppress(OSError):
        if _inode(path) == mine:
            path.unlink()


async def _answer_all(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    commands: Mapping[str, Command],
    talk: _Talk,
    patience: float,
) -> None:
    peer = _peer(writer.get_extra_info("socket"))
    while True:
        try:
            async with asyncio.timeout(patience):
                line = await reader.readline()
        except ValueError:
            await _send(writer, Answer(ok=False, error=f"the request is longer than {LONGEST} bytes", code=2))
            return
        if not line:
            return
        talk.busy = True
        await _send(writer, await _answer(line, peer, commands))
        talk.busy = False


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
        return Answer(ok=False, error=f"this is no request of a command of isthmus: {error}", code=2)
    command = commands.get(request.command)
    if command is None:
        known = ", ".join(sorted(commands))
        return Answer(ok=False, error=f"no command {request.command!r}; this daemon has {known}", code=2)
    try:
        return Answer(ok=True, result=await command(request.arguments, replace(peer, claimed=request.by)))
    except RefusedError as error:
        return Answer(ok=False, error=str(error), code=NOT_PERMITTED)
    except ConfigError as error:
        return Answer(ok=False, error=str(error), code=2)
    except (IsthmusError, LookupError, ValueError) as error:
        return Answer(ok=False, error=str(error.args[0] if error.args else error), code=1)
    except Exception as error:
        log.exception("bug command=%s", request.command)
        return Answer(
            ok=False,
            error=f"a bug of the daemon, please report it with its log: {type(error).__name__}: {error}",
            code=1,
        )


def _peer(connection: socket.socket) -> Peer:
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    more = b""
    with contextlib.suppress(OSError):
        more = connection.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS)
    return Peer(uid, pid, frozenset((gid, *(each for (each,) in struct.iter_unpack("I", more)))))
