"""Arbitrary bytes and arbitrary requests on the xDS port: each ends in a status, never in an exception or in growth."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from envoy.service.discovery.v3 import discovery_pb2 as discovery

from bridge.model import Instance
from tests.adapters.xds.test_server import ONE, Served, served
from tests.kit.ads import CLUSTER, ENDPOINTS, LISTENER, PREFIX, ROUTES, SERVICE
from tests.kit.waiting import until

METHODS = {"Delta": discovery.DeltaDiscoveryRequest, "Stream": discovery.DiscoveryRequest}
KNOWN = [PREFIX + each for each in (CLUSTER, ENDPOINTS, LISTENER, ROUTES)]
TYPES = (*KNOWN, "", PREFIX + "nothing.v3.Nothing", "\x00é")
NAMES = ("pay", "isthmus-egress", "*", "", "nobody", "x" * 3_000, "ключ", "xdstp://a/b?c", "pay/9", " ")
ENDED = {  # what a stream of nonsense may come to; UNKNOWN is an exception of ours
    grpc.StatusCode.OK,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INVALID_ARGUMENT,  # bytes that are no request
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
WRITTEN_TOO_LATE = "Internal error from Core"  # the client's own words, where the server has ended the stream by then
WRITING = "Ads._write"  # the server's task a stream
BOUNDED = 150  # conversations of the run that is not soak
GROWTH = 32 * 1024 * 1024  # bytes that any time of it may leave behind: what Python's allocator keeps is no growth


class Fuzz:
    """Conversations at one port, by a seed."""

    def __init__(self, at: Served, channel: grpc.aio.Channel, rng: random.Random) -> None:
        self.ended: Counter[grpc.StatusCode] = Counter()
        self._at = at
        self._channel = channel
        self._rng = rng
        self._number = 1
        self._turn = asyncio.Lock()

    async def conversation(self) -> None:
        """One stream, of up to a dozen messages, some of which are read; then it is left in one of three ways."""
        method, kind = self._rng.choice(list(METHODS.items()))
        stub: Any = self._channel.stream_stream(
            f"{SERVICE}{method}AggregatedResources", request_serializer=bytes, response_deserializer=bytes
        )
        call, nonces = stub(), [""]
        try:
            for _ in range(self._rng.randrange(12)):
                await call.write(self._message(kind, nonces))
                if self._rng.random() < 0.5 and not await self._read(call, nonces):
                    call.cancel()  # a client that leaves abruptly
                    break
                if self._rng.random() < 0.2:
                    await self._change()
            else:
                await call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, asyncio.CancelledError):
            pass  # the server ended it, which its code says
        if self._rng.random() < 0.3:
            call.cancel()
        while await self._rest(call):
            pass
        code, details = await call.code(), await call.details()
        self.ended[code] += 1
        assert code in ENDED or details == WRITTEN_TOO_LATE, f"{code}: {details}"

    async def _read(self, call: Any, nonces: list[str]) -> bool:
        """Whether there was anything to read soon."""
        reading = asyncio.ensure_future(call.read())
        done, _ = await asyncio.wait((reading,), timeout=0.01)
        if not done:
            reading.cancel()
            return False
        body = reading.result()
        if isinstance(body, bytes):
            nonces.append(discovery.DeltaDiscoveryResponse.FromString(body).nonce)
        return True

    async def _rest(self, call: Any) -> bool:
        try:
            return isinstance(await call.read(), bytes)
        except (grpc.aio.AioRpcError, asyncio.CancelledError, asyncio.InvalidStateError):
            return False

    def _message(self, kind: Any, nonces: list[str]) -> bytes:
        if self._rng.random() < 0.1:
            return self._rng.randbytes(self._rng.randrange(200))
        request = kind(type_url=self._rng.choice(TYPES), response_nonce=self._rng.choice([*nonces, "1", "2", "stale"]))
        if self._rng.random() < 0.3:
            request.node.id = self._rng.choice(NAMES)
            request.node.metadata["network"] = self._rng.choice(["", "vm", 7, None, {"a": [1]}])
        if self._rng.random() < 0.3:
            request.error_detail.code, request.error_detail.message = 3, self._rng.choice(NAMES)
        some = self._rng.choices(NAMES, k=self._rng.randrange(4))
        if kind is discovery.DiscoveryRequest:
            request.resource_names.extend(some)
            request.version_info = self._rng.choice(["", "1", "ff" * 8])
        else:
            request.resource_names_subscribe.extend(some)
            request.resource_names_unsubscribe.extend(self._rng.choices(NAMES, k=self._rng.randrange(3)))
            for name in self._rng.choices(NAMES, k=self._rng.randrange(3)):
                request.initial_resource_versions[name] = self._rng.choice(["", "old", "ff" * 8])
        body = bytes(request.SerializeToString())
        if self._rng.random() < 0.1:  # a request, and what a broken sender makes of it
            at = self._rng.randrange(len(body) + 1)
            body = body[:at] + self._rng.randbytes(3) + body[at:]
        return body

    async def _change(self) -> None:
        async with self._turn:
            self._number = self._number % 250 + 1
            await self._at.change(Instance("i1", f"192.0.2.{self._number}", ONE.ports))


async def quiet(at: Served) -> None:
    """Waits until nobody is connected, and what wrote to them has ended."""

    async def alone() -> bool:
        return not at.registry.clients() and WRITING not in servers_tasks()

    await until(alone, "every stream is gone")
    gc.collect()


def servers_tasks() -> list[str]:
    """What runs at the server, which is in this process like its clients."""
    names = [str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks()]
    return sorted(name for name in names if name.startswith("Ads."))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def test_any_bytes_and_any_requests_end_in_a_status(
    tmp_path: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        fuzz = Fuzz(at, channel, random.Random(seed))
        await fuzz.conversation()
        await quiet(at)
        before = servers_tasks()
        for _ in range(BOUNDED):
            await fuzz.conversation()
        await quiet(at)
        assert fuzz.ended.keys() >= {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT}
        assert servers_tasks() == before
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.soak
async def test_ten_minutes_of_nonsense_leave_nothing_behind(
    tmp_path: Path, seed: int, pytestconfig: pytest.Config, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "isthmus")  # pytest keeps each line, and a refusal of a client is one of 500 bytes
    seconds = 60 * float(pytestconfig.getoption("--minutes"))
    async with served(tmp_path) as at, grpc.aio.insecure_channel(at.address) as channel:
        fuzz = Fuzz(at, channel, random.Random(seed))
        clock = asyncio.get_running_loop().time
        for _ in range(BOUNDED):
            await fuzz.conversation()
        await quiet(at)
        before, tasks, ends = resident(), servers_tasks(), clock() + seconds
        while clock() < ends:
            await asyncio.gather(*(fuzz.conversation() for _ in range(8)))
        await quiet(at)
        assert servers_tasks() == tasks
        assert resident() - before < GROWTH
