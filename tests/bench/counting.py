"""Proxies before the servers of a stage, which count what these are asked."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from tests.bench.stage import Stage

_REQUEST = re.compile(rb"(GET|PUT|POST|PATCH|DELETE) (\S+) HTTP/1\.1\r\n")
_LENGTH, _HEAD = struct.Struct("!i"), struct.Struct("!ii")  # of a packet of ZooKeeper; of a request: its xid and type


_NAMES = "1 create 2 delete 3 exists 4 getData 5 setData 8 getChildren 9 sync 11 ping 12 getChildren2 14 multi "
_NAMES += "19 createContainer 22 multiRead 106 addWatch -11 closeSession"
TYPES = dict(zip(map(int, _NAMES.split()[::2]), _NAMES.split()[1::2], strict=True))  # of requests to ZooKeeper


class Counting:
    """A server of a stage that leads to another one; a context manager. `requests`: what that was asked, by kind."""

    address: str

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()

    async def __aenter__(self) -> Counting:
        raise NotImplementedError

    async def __aexit__(self, *exc: object) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        """As a server of a stage has it; nothing stops here."""

    async def start(self) -> None:
        """Likewise."""


class Talk:
    """One connection, both ways: a subclass counts what goes over it."""

    def __init__(self, to: Piped) -> None:
        self.to = to

    def asked(self, chunk: bytes) -> None:
        """From the client."""

    def answered(self, chunk: bytes) -> None:
        """From the server."""


class Piped(Counting):
    """A proxy of connections; `talk` counts. `listens`: of answers to polls, their path and when they began."""

    def __init__(self, address: str, talk: type[Talk], tls: ssl.SSLContext | None = None) -> None:
        """`tls`: how the server is spoken to; the proxy itself is without."""
        super().__init__()
        self.listens: list[tuple[str, float]] = []
        self._talk = talk
        self._tls = tls
        self._host, _, port = address.partition(":")
        self._port = int(port)
        self._pipes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Piped:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for each in self._pipes:
            each.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, here = await asyncio.open_connection(self._host, self._port, ssl=self._tls)
        except OSError:
            writer.close()
            return
        talk = self._talk(self)
        for each in (self._pipe(reader, here, talk.asked), self._pipe(there, writer, talk.answered)):
            task = asyncio.create_task(each)
            self._pipes.add(task)
            task.add_done_callback(self._pipes.discard)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Any) -> None:
        try:
            while chunk := await reader.read(1 << 16):
                heard(chunk)
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


class Http(Talk):
    """By method."""

    _path = ""

    def asked(self, chunk: bytes) -> None:
        for method, path in _REQUEST.findall(chunk):
            self._path = path.decode().partition("?")[0]
            self.to.requests[method.decode()] += 1

    def answered(self, chunk: bytes) -> None:
        if self._path.endswith("/apps/delta"):
            self.to.listens.append((self._path, time.perf_counter()))


class Session(Talk):
    """Of ZooKeeper, by the type of the request; what begins a session has none."""

    def __init__(self, to: Piped) -> None:
        super().__init__(to)
        self._in = b""
        self._begun = False

    def asked(self, chunk: bytes) -> None:
        self._in += chunk
        while len(self._in) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._in)[0]
            if len(self._in) < end:
                return
            _, kind = _HEAD.unpack_from(self._in, _LENGTH.size) if self._begun else (0, 0)
            self.to.requests[TYPES.get(kind, f"type {kind}") if self._begun else "connect"] += 1
            self._begun, self._in = True, self._in[end:]


class Cluster(Piped):
    """Before an apiserver. `address`: a kubeconfig that leads here."""

    def __init__(self, kubeconfig: str) -> None:
        self._said = json.loads(Path(kubeconfig).read_text())
        self._file = Path(f"{kubeconfig}.counted")
        cluster = self._said["clusters"][0]["cluster"]
        tls = ssl.create_default_context(cafile=cluster["certificate-authority"])
        super().__init__(cluster["server"].removeprefix("https://"), Http, tls)

    async def __aenter__(self) -> Cluster:
        await super().__aenter__()
        self._said["clusters"][0]["cluster"] = {"server": f"http://{self.address}"}
        self._file.write_text(json.dumps(self._said))
        self.address = str(self._file)
        return self


class Calls(Counting):
    """Before an etcd: messages by method, those of a stream one by one, as etcd counts them."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._to = address

    async def __aenter__(self) -> Calls:
        whole = [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.aio.insecure_channel(self._to, whole)
        self._server = grpc.aio.server(options=whole)
        self._server.add_generic_rpc_handlers((_Any(self._forward),))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop(None)
        await self._channel.close(None)

    async def _forward(self, method: str, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        name = method.rpartition("/")[2]

        async def counted() -> AsyncIterator[bytes]:
            async for message in messages:
                self.requests[name] += 1
                yield message

        call: Any = self._channel.stream_stream(method, None, None)(counted())
        try:
            async for answer in call:
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
        finally:
            call.cancel()


class _Any(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Every method, also one of a single message, as streams of bytes both ways."""

    def __init__(self, forward: Any) -> None:
        self._forward = forward

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(partial(self._forward, details.method))


# By kind of server; `address` of one may name several, of which the first is asked.
COUNTING: dict[str, Callable[[str], Counting]] = {
    "consul": partial(Piped, talk=Http),
    "eureka": partial(Piped, talk=Http),
    "zookeeper": partial(Piped, talk=Session),
    "kubernetes": Cluster,
    "etcd": Calls,
}


@asynccontextmanager
async def counted(
    stage: Stage, of: Collection[str] = ("source", "target")
) -> AsyncIterator[tuple[Stage, dict[str, Counting]]]:
    """The same stage with proxies before its servers, by end."""
    ends: dict[str, Any] = {"source": stage.source, "target": stage.target}
    async with AsyncExitStack() as stack:
        proxies: dict[str, Counting] = {
            end: await stack.enter_async_context(COUNTING[name](ends[end].address.split(",")[0]))
            for end, name in stage.pair._asdict().items()
            if end in of
        }
        ends |= proxies
        yield Stage(stage.pair, stage.folder, ends["source"], ends["target"]), proxies
