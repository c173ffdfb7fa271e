"""etcd3 0.12 in an environment of its own: it imports only where protobuf is the slow one in pure Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.servers import provide

ROOT = Path(__file__).parents[2]
PINS = [ROOT / "requirements" / name for name in ("witness.txt", "etcd3.txt")]  # what it needs comes first, to build it
CLIENT = Path(__file__).with_name("client.py")
SLOW = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
PATIENCE = 10.0  # seconds that a client has to end


def python() -> Path:
    """The interpreter of that environment, made on first use; raises NotProvided."""
    name = "-".join(["witness-etcd3", *(provide.digest(pins) for pins in PINS), f"{sys.version_info.minor}"])
    return provide.provided(name, _build) / "bin" / "python"


def _build(folder: Path) -> None:
    provide.run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    for pins in PINS:
        provide.run(python, "-m", "pip", "install", "--require-hashes", "--no-build-isolation", "-r", pins)
    provide.run(python, "-c", "import etcd3", folder=folder, **SLOW)


class Client:
    """One process with one client; what it says, as JSON, a line each, is gathered in `said`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.said: list[Any] = []
        self._process = process

    async def listen(self) -> None:
        """Until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.said.append(json.loads(line))


@asynccontextmanager
async def client(address: str, job: str, *words: str) -> AsyncIterator[Client]:
    """Runs `client.py` with one of its jobs, and ends it in an orderly way."""
    interpreter = await asyncio.to_thread(python)
    process = await asyncio.create_subprocess_exec(
        interpreter,
        CLIENT,
        address,
        job,
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | SLOW,
    )
    made = Client(process)
    listening = asyncio.create_task(made.listen())
    try:
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening
