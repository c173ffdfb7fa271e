"""kcat 1.7 as Debian ships it, the command line client of Kafka on librdkafka: it reads, and is no server."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from tests.servers import provide

LIBRARIES = {"librdkafka1": "2.0", "libyajl2": "2.1"}  # beside what every Debian has
PATIENCE = 60.0  # seconds that one reading may take


def program() -> Path:
    """kcat itself, provided on first use; raises NotProvided."""
    return provide.provided("kcat-1.7", _unpack) / "usr/bin/kcat"


def _unpack(folder: Path) -> None:
    provide.debian("kcat", "1.7", folder)
    for package, version in LIBRARIES.items():
        provide.debian(package, version, folder)
    provide.run(folder / "usr/bin/kcat", "-V", folder=folder, **_environment(folder))


def _environment(folder: Path) -> dict[str, str]:
    return {"LD_LIBRARY_PATH": ":".join(map(str, {path.parent for path in folder.glob("usr/lib/**/*.so*")}))}


async def read(address: str, topic: str) -> list[dict[str, Any]]:
    """Every record of a topic up to its end, as kcat says it: partition, offset, headers, key and payload."""
    binary = await asyncio.to_thread(program)
    reading = await asyncio.create_subprocess_exec(
        *(binary, "-C", "-b", address, "-t", topic, "-o", "beginning", "-e", "-q", "-J"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | _environment(binary.parents[2]),
    )
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await reading.communicate()
    finally:
        if reading.returncode is None:
            reading.kill()
            await reading.wait()
    assert reading.returncode == 0, err.decode()
    return [_record(json.loads(line)) for line in out.splitlines()]


def _record(said: dict[str, Any]) -> dict[str, Any]:
    names = said["headers"]
    return {**said, "headers": dict(zip(names[::2], names[1::2], strict=True))}
