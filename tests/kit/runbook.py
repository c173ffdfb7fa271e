"""A page of Markdown whose commands are run as they stand: its file, and its blocks in their order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import yaml
from aiohttp import web

from tests.kit.running import ROOT, THIS, Ran, ended, isthmus
from tests.servers import ports

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


class Step(NamedTuple):
    """One block of commands, under its heading."""

    heading: str
    commands: str


class Page(NamedTuple):
    """`file`: the configuration that it begins with."""

    file: dict[str, Any]
    steps: tuple[Step, ...]


def read(path: Path) -> Page:
    """The page; the first block of YAML is the file, and each block of sh is run."""
    text = path.read_text()
    headings = [(found.start(), found[1]) for found in HEADING.finditer(text)]
    file: dict[str, Any] = {}
    steps = []
    for found in BLOCK.finditer(text):
        kind, content = found.groups()
        if kind == "yaml":
            file = file or yaml.safe_load(content)
        elif kind == "sh":
            steps.append(Step([name for at, name in headings if at < found.start()][-1], content))
    return Page(file, tuple(steps))


# What a person's shell has as `isthmus`: it costs no second in which Python imports the program.
ISTHMUS = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({path!r})
    asked.sendall(json.dumps([os.getcwd(), sys.argv[1:]]).encode() + b"\\n")
    code, out, err = json.loads(asked.makefile().readline())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""
PAUSE = 0.1  # seconds that `sleep 1` takes here: a person who waits has more time

Machine = Callable[[str, list[str]], Awaitable[None]]


class Shell:
    """Runs blocks in one folder. `machine` is told what `ssh HOST WORDS` would have done there."""

    def __init__(self, folder: Path, environment: Mapping[str, str], machine: Machine) -> None:
        (self._port,) = ports.reserve(1)
        self.folder = folder
        self._machine = machine
        self._programs = folder / "bin"
        self._programs.mkdir()
        self._said = dict(environment)
        self._environment = {"PATH": f"{self._programs}:{os.environ['PATH']}", **environment}
        self._socket = str(self._programs / "isthmus.sock")
        self._program("isthmus", ISTHMUS.format(python=sys.executable, path=self._socket))
        self._program("sleep", f"#!/bin/sh\nexec {shutil.which('sleep')} {PAUSE}\n")
        curl = f'curl -fsS http://127.0.0.1:{self._port}/ --data-urlencode "words=$*"'
        self._program("ssh", f"#!/bin/sh\nexec {curl}\n")
        self._commands: asyncio.Server | None = None
        self._runner = web.ServerRunner(web.Server(self._asked, access_log=None))

    async def run(self, step: Step) -> Ran:
        """A block, until its first command that fails."""
        words = ("bash", "-euo", "pipefail", "-c", step.commands)
        return await ended(*words, cwd=self.folder, program=THIS, **self._environment)

    async def open(self) -> None:
        """From now on machines are reached."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._commands = await asyncio.start_unix_server(self._commanded, self._socket)

    async def close(self) -> None:
        """No machine is reached any more."""
        if self._commands is not None:
            self._commands.close()
        await self._runner.cleanup()
        ports.release([self._port])

    def _program(self, name: str, text: str) -> None:
        path = self._programs / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    async def _commanded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        folder, words = json.loads(await reader.readline())
        ran = await isthmus(*words, cwd=Path(folder), program=THIS, **self._said)
        writer.write(json.dumps([ran.code, ran.out, ran.err]).encode() + b"\n")
        writer.close()

    async def _asked(self, request: web.BaseRequest) -> web.Response:
        said = parse_qs((await request.read()).decode())["words"][0].split()
        await self._machine(said[0], said[1:])
        return web.Response()


@asynccontextmanager
async def shell(folder: Path, environment: Mapping[str, str], machine: Machine) -> AsyncIterator[Shell]:
    """One whose machines are reached while the block runs."""
    made = Shell(folder, environment, machine)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


RUNBOOKS = ROOT / "deploy" / "runbooks"
