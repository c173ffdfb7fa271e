"""The product as its users run it: the daemon as a process, its file and state folder, and the commands beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import yaml

from bridge.admin.client import call
from bridge.errors import IsthmusError
from tests.kit.waiting import until
from tests.kit.zygote import Zygote
from tests.servers.process import RUNNING, Process

ROOT = Path(__file__).parents[2]
COMMAND_TIME = 200.0  # seconds: below the time that a whole test may take, so that a hanging command is named
NOTES = 4096


class Program(NamedTuple):
    """A version of the program: the folder that it is in, its module, and what stands before a command's file."""

    root: Path
    module: str
    option: tuple[str, ...] = ()


THIS = Program(ROOT, "bridge.cli.main", ("-f",))
HASTY = THIS._replace(module="tests.kit.hasty")


class Ran(NamedTuple):
    """What a command did: its exit code, and what it said on both outputs."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, decoded."""
        return json.loads(self.out)


async def isthmus(*words: str | Path, cwd: Path = ROOT, program: Program = THIS, **environment: str) -> Ran:
    """Runs a command to its end, in a process of its own; of this version one that need not import it (`zygote`)."""
    if program is THIS and words[0] != "log":  # which reads what a daemon writes a moment later
        asked = os.environ | _only(program) | environment
        return Ran(*await _zygote().run([*map(str, words)], cwd, asked, COMMAND_TIME))
    python = (sys.executable, "-m", program.module)
    return await ended(*python, *map(str, words), cwd=cwd, program=program, **environment)


@cache
def _zygote() -> Zygote:
    return Zygote(ROOT, _only(THIS))


async def ended(*words: str, cwd: Path = ROOT, program: Program = THIS, **environment: str) -> Ran:
    """Runs a process with the program's modules to its end, likewise."""
    child = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=os.environ | _only(program) | environment,
    )
    try:
        async with asyncio.timeout(COMMAND_TIME):
            out, err = await child.communicate()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode is not None
    return Ran(child.returncode, out.decode(), err.decode())


def _only(program: Program) -> dict[str, str]:
    """Has Python take the modules of that version, whatever the working folder has."""
    return {"PYTHONPATH": str(program.root), "PYTHONSAFEPATH": "1"}


class Bridge:
    """One bridge: its file, its state folder, and its daemon while it runs; an async context manager that ends it.

    The dictionaries are the blocks of the configuration; change them, `write()`, and `hup()` or `start()`.
    """

    def __init__(
        self,
        folder: Path,
        registries: Mapping[str, Any],
        links: Sequence[Mapping[str, Any]],
        *,
        name: str = "bridge",
        **bridge: Any,
    ) -> None:
        self.file = folder / f"{name}.yaml"
        self.state = folder / f"{name}.state"
        self.bridge: dict[str, Any] = {"id": "b1", "state": str(self.state), **bridge}
        self.registries: dict[str, Any] = {key: dict(block) for key, block in registries.items()}
        self.networks: dict[str, Any] = {}
        self.links: list[dict[str, Any]] = [dict(link) for link in links]
        self.migrations: list[dict[str, Any]] = []
        self.overrides: list[dict[str, Any]] = []
        self.program = THIS
        self.within: list[str] = []  # what the command of its daemon is run by
        self.descriptors = 0  # how many its daemon may have, 0: as many as this process
        self.process = Process(name, folder)
        self.notes: list[str] = []  # what it told its supervisor
        self._notify = folder / f"{name}.notify"
        self._supervisor = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._supervisor.bind(str(self._notify))
        self.write()

    async def __aenter__(self) -> Bridge:
        await self.start()
        return self

    async def __aexit__(self, error: object, *_: object) -> None:
        await self.process.stop()
        if error is not None:
            RUNNING.add(self.process)  # its log is of interest still
        self.close()

    def close(self) -> None:
        """For one that never ran."""
        self._supervisor.close()
        self._notify.unlink(missing_ok=True)

    def write(self, text: str | None = None) -> None:
        """The configuration's file, or any text in its place."""
        blocks = {"bridge": self.bridge, "registries": self.registries, "links": self.links}
        blocks |= {"networks": self.networks} if self.networks else {}  # which older programs do not know
        blocks |= {"migrations": self.migrations} if self.migrations else {}
        blocks |= {"overrides": self.overrides} if self.overrides else {}
        self.file.write_text(yaml.safe_dump(blocks, sort_keys=False) if text is None else text)

    # -- the daemon

    async def start(
        self, *options: str, ready: bool = True, environment: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """Starts the daemon; returns when it has told its supervisor that it is ready, or (`ready` False) at once."""
        self._hear()
        self.notes.clear()
        command = [sys.executable, "-m", self.program.module, "run", *self.program.option, str(self.file), *options]

        command = [*self.within, *command]
        if self.descriptors:
            command = ["sh", "-c", f'ulimit -n {self.descriptors}; exec "$@"', "sh", *command]

        async def is_ready() -> bool:
            return not ready or "READY=1" in self._hear()

        told = {**_only(self.program), "NOTIFY_SOCKET": str(self._notify), **environment}
        await self.process.start(command, is_ready, **told)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        await self.process.stop()
        RUNNING.add(self.process)  # its log is still of interest when the test fails
        return self.process.code

    async def kill(self) -> None:
        """SIGKILL."""
        await self.process.kill()
        RUNNING.add(self.process)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.process.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        self.process.thaw()

    def signal(self, number: signal.Signals) -> None:
        """Any signal."""
        os.kill(self.process.pid, number)

    async def hup(self) -> None:
        """Writes the file and has it read; returns when the daemon has taken it over or refused it."""
        self.write()
        await self.hup_as_it_is()

    async def hup_as_it_is(self) -> None:
        """Has the file read that stands there."""
        self._hear()
        self.notes.clear()
        self.signal(signal.SIGHUP)
        await until(lambda: "READY=1" in self._hear(), "the reload")

    def _hear(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.notes += self._supervisor.recv(NOTES).decode().splitlines()
        return self.notes

    def heard(self) -> list[str]:
        """What it told its supervisor since its start or the last reload."""
        return self._hear()

    @property
    def log(self) -> str:
        """All that it has said."""
        return self.process.log.read_text()

    # -- the commands

    async def isthmus(self, command: str, *words: str) -> Ran:
        """Runs `isthmus COMMAND -f FILE WORDS`."""
        return await isthmus(command, *self.program.option, self.file, *words, program=self.program)

    async def ask(self, command: str, **arguments: Any) -> Any:
        """What the daemon answers over its socket: the same as the command, and quicker."""
        return await asyncio.to_thread(call, self.state / "admin.sock", command, **arguments)

    async def scopes(self) -> dict[str, dict[str, Any]]:
        """How each registry does, by its name."""
        return {row["registry"]: row for row in (await self.ask("status"))["scopes"]}

    async def link(self, name: str | None = None) -> dict[str, Any]:
        """How a link does: the only one, or the one with that name."""
        rows = (await self.ask("status"))["links"]
        (found,) = [row for row in rows if name in (None, row["link"])]
        return cast("dict[str, Any]", found)

    async def rests(self) -> bool:
        """Whether every source is heard, and every link has done all there is to do, with nothing held or parked."""
        try:
            now = await self.ask("status")
        except IsthmusError:
            return False
        heard = all(row["state"] == "synced" for row in now["scopes"])
        done = all(not any(row[key] for key in ("busy", "held", "waiting", "parked", "lag")) for row in now["links"])
        return heard and done and all(row["role"] in ("writer", "observing") for row in now["links"])

    async def writes(self) -> bool:
        """Whether every link has its lock."""
        try:
            return all(row["role"] == "writer" for row in (await self.ask("status"))["links"])
        except IsthmusError:
            return False

    async def holds(self) -> list[dict[str, Any]]:
        """What is held."""
        return cast("list[dict[str, Any]]", await self.ask("holds"))

    async def approve(self) -> None:
        """Lets go all that is held now."""
        for hold in await self.holds():
            await self.ask("approve", id=hold["id"], reason="the test says so")
