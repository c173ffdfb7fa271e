"""A stock gRPC client that dials `xds:///NAME`, and servers that say who they are."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from tests.kit.waiting import until

# The bootstrap is read when the library is first used, so the client is a process of its own; it calls until its input
# ends, and says after each line of that who answered since the last.
CLIENT = """
import collections, json, sys, threading, time
import grpc
found = collections.Counter()
def call():
    with grpc.insecure_channel("xds:///" + sys.argv[1]) as channel:
        method = channel.unary_unary("/test.Who/Am")
        while True:
            try:
                found[method(b"", timeout=10, wait_for_ready=True).decode()] += 1
            except grpc.RpcError as error:
                found["failed: " + str(error.code()) + " " + str(error.details())] += 1
            time.sleep(0.005)
for _ in range(int(sys.argv[2])):
    threading.Thread(target=call, daemon=True).start()
for line in sys.stdin:
    print(json.dumps(found), flush=True)
    found.clear()
"""


class Client:
    """The process. `failed` gathers what was said of calls that nobody answered."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.failed: list[str] = []
        self._process = process

    async def answered(self) -> dict[str, int]:
        """Who answered since the last question, and how often."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()
        found: dict[str, int] = json.loads(await self._process.stdout.readline())
        self.failed += [name for name in found if name.startswith("failed")]
        return {name: count for name, count in found.items() if not name.startswith("failed")}

    async def more(self, calls: int) -> Counter[str]:
        """Waits for so many more answers; who gave them."""
        await self.answered()
        found: Counter[str] = Counter()

        async def enough() -> bool:
            found.update(await self.answered())
            return found.total() >= calls

        await until(enough, f"{calls} answers", every=0.2)
        return found

    async def only(self, *addresses: str) -> None:
        """Waits until these answer, and no others any more."""

        async def settled() -> bool:
            await asyncio.sleep(0.2)
            return set(await self.answered()) == set(addresses)

        await until(settled, f"{addresses} answer alone")


@asynccontextmanager
async def client(bootstrap: Path, service: str, threads: int = 1) -> AsyncIterator[Client]:
    """One that calls a service by so many threads while the block runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CLIENT,
        service,
        str(threads),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"GRPC_XDS_BOOTSTRAP": str(bootstrap)},
    )
    try:
        yield Client(process)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def servers(port: int, *addresses: str) -> AsyncIterator[None]:
    """One at each address; it answers with that."""
    made: list[grpc.aio.Server] = []
    for address in addresses:

        async def answer(_: bytes, context: object, address: str = address) -> bytes:
            return address.encode()

        server = grpc.aio.server()
        methods = {"Am": grpc.unary_unary_rpc_method_handler(answer)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Who", methods),))
        server.add_insecure_port(f"{address}:{port}")
        await server.start()
        made.append(server)
    try:
        yield
    finally:
        for server in made:
            await server.stop(0)
