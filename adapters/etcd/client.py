"""A thin etcd client over grpc.aio: endpoints with failover, rotated TLS files, tokens, deadlines, pages."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import urlsplit

import grpc
import msgspec
from google.protobuf.message import Message

from adapters.common.credentials import Pems, Tls, ended
from adapters.common.disk import Question
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.keys import Range
from adapters.etcd.times import TIMES, Times
from bridge.adapter import Credential
from bridge.errors import Denied, Expired, IsthmusError, Rejected, Unavailable

UNARY_TIME = 5.0  # seconds for one request
PAGE_TIME = 15.0  # seconds for one page of a list
PAGE = 5_000  # keys: etcd counts the whole range for each page, and memory for a larger page is never given back
# Bytes. gRPC's default of 4 MiB is less than one batch of a busy watch; this holds a deletion of three million keys.
LARGEST = 256 << 20
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the timeout of one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 1_000),  # the bridge decides when to retry, not gRPC
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Credentials(msgspec.Struct, frozen=True):
    """User and password. The password is read at each login, so that its file may be rotated."""

    user: str
    password: Callable[[], str]


class Method(msgspec.Struct, Generic[Q, R], frozen=True):
    """One RPC. `again`: it is idempotent, so the next endpoint is tried where one does not answer."""

    path: str
    request: type[Q]
    response: type[R]
    again: bool = False


RANGE = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse, again=True)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
READ = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse, again=True)  # a transaction of ranges alone
WATCH = Method("/etcdserverpb.Watch/Watch", pb.WatchRequest, pb.WatchResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse, again=True)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse, again=True)
KEEP_ALIVE = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)
STATUS = Method("/etcdserverpb.Maintenance/Status", pb.StatusRequest, pb.StatusResponse, again=True)
USER = Method("/etcdserverpb.Auth/UserGet", pb.UserGetRequest, pb.UserGetResponse, again=True)
ROLE = Method("/etcdserverpb.Auth/RoleGet", pb.RoleGetRequest, pb.RoleGetResponse, again=True)
AUTHENTICATE = Method("/etcdserverpb.Auth/Authenticate", pb.AuthenticateRequest, pb.AuthenticateResponse, again=True)


class TokenExpired(Denied):
    """The server does not accept our token any more: log in again."""


class Refused(Unavailable):
    """A refusal that every member would repeat, so that no other endpoint is tried."""


class AuthOff(Refused):
    """Authentication is not switched on."""


class NoUser(Refused):
    """There is no user of that name."""


class LeaseGone(Refused):
    """The requested lease does not exist."""


class LeaseExists(Refused):
    """A lease with the requested id exists already."""


class TooLarge(Rejected):
    """The request or the answer is larger than a message may be."""


# etcd's error texts (rpctypes/error.go) and our classes: the status code alone is ambiguous. First match wins.
SAID: tuple[tuple[str, type[IsthmusError]], ...] = (
    ("invalid auth token", TokenExpired),
    ("revision of auth store is old", TokenExpired),
    ("authentication failed", Denied),
    ("user name is empty", TokenExpired),  # authentication was enabled after we had asked for a token
    ("permission denied", Denied),
    ("has been compacted", Expired),
    ("is a future revision", Expired),
    ("request is too large", TooLarge),
    ("message larger than max", TooLarge),
    ("authentication is not enabled", AuthOff),
    ("user name not found", NoUser),
    ("requested lease not found", LeaseGone),
    ("lease already exists", LeaseExists),
    ("too large lease TTL", Rejected),
)
CODES: dict[grpc.StatusCode, type[IsthmusError]] = {
    grpc.StatusCode.PERMISSION_DENIED: Denied,
    grpc.StatusCode.UNAUTHENTICATED: Denied,
    grpc.StatusCode.OUT_OF_RANGE: Expired,
}


def error_of(code: grpc.StatusCode, said: str) -> IsthmusError:
    """Our error for a failed call. An unknown one is Unavailable, which at worst costs a retry."""
    if "database space exceeded" in said:
        return Unavailable("etcd refuses writes: its database is full (NOSPACE alarm); compact, defragment and disarm")
    for text, kind in SAID:
        if text in said:
            return kind(said)
    return CODES.get(code, Unavailable)(f"{said} ({code.name})")


def reading(areas: Iterable[Range]) -> pb.TxnRequest:
    """A request for ranges as of one revision, for READ; a range of one key has an empty end."""
    return pb.TxnRequest(
        success=[pb.RequestOp(request_range=pb.RangeRequest(key=area.start, range_end=area.end)) for area in areas]
    )


def _asked(request: Message, user: str | None) -> str:
    """What the user was refused, by the first key of the request; "" where it names no key."""
    operation = next(iter(request.success), None) if isinstance(request, pb.TxnRequest) else None
    what = getattr(operation, operation.WhichOneof("request")) if operation is not None else request
    key = getattr(what, "key", b"").decode(errors="replace")
    verb = "read" if isinstance(what, pb.RangeRequest) else "write"
    below = " and the keys that follow" if getattr(what, "range_end", b"") else ""
    return f": the user {user or 'without a name'} may not {verb} {key}{below}" if key else ""


class _Link:
    """One channel, with a count of its users: a channel that was replaced is closed by the last of them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.users = 0
        self.retired = False
        self._calls: dict[str, Any] = {}

    def unary(self, method: Method[Q, R]) -> Callable[..., Any]:
        call = self._calls.get(method.path)
        if call is None:
            call = self._calls[method.path] = self.channel.unary_unary(
                method.path, method.request.SerializeToString, method.response.FromString
            )
        return call

    async def left(self) -> None:
        """One user less."""
        self.users -= 1
        if self.retired and not self.users:
            await self.channel.close(None)

    async def retire(self) -> None:
        self.retired = True
        if not self.users:
            await self.channel.close(None)


class _Endpoint(NamedTuple):
    target: str
    secure: bool

    @classmethod
    def of(cls, url: str) -> _Endpoint:
        parts = urlsplit(url)
        return cls(parts.netloc, parts.scheme == "https")


class Client:
    """A client of one cluster. One endpoint is used as long as it works, then the next one.

    Opens a connection when it is first used. Raises the errors of `bridge.errors` and never waits to try again.
    `largest`: bytes of one message.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        tls: Tls | None = None,
        credentials: Credentials | None = None,
        times: Times = TIMES,
        largest: int = LARGEST,
    ) -> None:
        self._times = times
        self._largest = largest
        self.user = credentials.user if credentials else None
        self._endpoints = [_Endpoint.of(url) for url in endpoints]
        self._tls = tls or Tls()
        self._current = 0
        self._link: _Link | None = None
        self._pems = Pems()  # that the link was made with
        self._read_pems = Question(lambda: self._pems.read(self._tls), "the TLS files")
        self._password = Question(credentials.password, "the password's file") if credentials else None
        self._token: str | None = None  # "": logged in, and authentication is disabled
        self._login = asyncio.Lock()

    async def close(self) -> None:
        """Ends every call that is under way."""
        if self._link is not None:
            link, self._link = self._link, None
            await link.channel.close(None)

    def credentials(self) -> list[Credential]:
        """The certificate that was shown last."""
        return [self._pems.shown] if self._pems.shown is not None else []

    async def call(self, method: Method[Q, R], request: Q, timeout: float = UNARY_TIME) -> R:
        """One request and its answer, `timeout` in seconds."""
        renewed = False
        tries = len(self._endpoints) if method.again else 1
        while True:
            token = await self._authenticated() if method is not AUTHENTICATE else None
            try:
                async with _Use(self) as link:
                    response: R = await link.unary(method)(
                        request, timeout=timeout, metadata=(("token", token),) if token else None
                    )
                    return response
            except TokenExpired:
                self.forget(token)
                if renewed:
                    raise
                renewed = True
            except Refused:
                raise
            except Denied as error:
                raise Denied(f"{error}{_asked(request, self.user)}") from error
            except Unavailable:
                tries -= 1
                if tries <= 0:
                    raise

    @contextlib.asynccontextmanager
    async def stream(self, method: Method[Q, R], *metadata: tuple[str, str]) -> AsyncIterator[Any]:
        """A bidirectional stream, cancelled on exit. Its failures are raised as our errors."""
        token = await self._authenticated()
        try:
            async with _Use(self) as link:
                opened: Any = link.channel.stream_stream(
                    method.path, method.request.SerializeToString, method.response.FromString
                )
                call = opened(metadata=(*metadata, ("token", token)) if token else metadata)
                try:
                    yield call
                finally:
                    call.cancel()
        except TokenExpired:
            self.forget(token)
            raise

    async def pages(
        self, areas: Iterable[Range], keys_only: bool = False, limit: int = PAGE
    ) -> AsyncGenerator[tuple[Range, pb.RangeResponse]]:
        """All pages of some ranges, each range in key order, all as of the revision of the first page.

        The next page is requested while one is used: a caller that stops early closes the generator (`aclosing`).
        Raises Expired where the revision is compacted meanwhile, or another cluster answers.
        """
        first = pb.Header()
        waiting = iter(areas)
        area = next(waiting)
        asking = asyncio.create_task(self._page(area.start, area.end, 0, keys_only, limit))
        try:
            while True:
                page, limit = await asking
                first = first if first.revision else page.header
                if page.header.cluster_id != first.cluster_id:
                    raise Expired(f"another cluster answers: {page.header.cluster_id:x}, not {first.cluster_id:x}")
                following = area if page.more else next(waiting, None)
                if following is not None:
                    start = page.kvs[-1].key + b"\0" if page.more else following.start
                    again = self._page(start, following.end, first.revision, keys_only, limit)
                    asking = asyncio.create_task(again)
                yield area, page
                if following is None:
                    return
                area = following
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _page(
        self, start: bytes, end: bytes, revision: int, keys_only: bool, limit: int
    ) -> tuple[pb.RangeResponse, int]:
        """One page, and the number of keys with which it fits into a message."""
        while True:
            request = pb.RangeRequest(key=start, range_end=end, limit=limit, revision=revision, keys_only=keys_only)
            try:
                return await self.call(RANGE, request, PAGE_TIME), limit
            except TooLarge:
                if limit == 1:
                    raise
                limit = max(1, limit // 8)

    @contextlib.asynccontextmanager
    async def fresh(self) -> AsyncIterator[Client]:
        """A client of the same cluster over a new connection, for a second opinion."""
        other = Client([], times=self._times, largest=self._largest)
        other.user, other._endpoints, other._tls = self.user, self._endpoints, self._tls
        other._password, other._token, other._current = self._password, self._token, self._current
        try:
            yield other
        finally:
            await other.close()

    def forget(self, token: str | None = None) -> None:
        """Drops a token that is not accepted any more; None: whichever we have."""
        if token is None or token == self._token:
            self._token = None

    async def leave(self, link: _Link | None = None) -> None:
        """Uses the next endpoint from now on, where there is one. Calls under way on this one may finish."""
        left = self._link
        if left is not None and link in (left, None) and len(self._endpoints) > 1:
            self._current = (self._current + 1) % len(self._endpoints)
            self._link = None
            await left.retire()

    async def _authenticated(self) -> str | None:
        if self._password is None or self._token is not None:
            return self._token
        async with self._login:
            if self._token is None:
                try:
                    request = pb.AuthenticateRequest(name=self.user, password=await self._password.answer())
                    self._token = (await self.call(AUTHENTICATE, request)).token
                except AuthOff:
                    self._token = ""  # as etcd's own client does: users are configured before authentication is enabled
        return self._token

    async def _connected(self) -> _Link:
        pems = await self._read_pems.answer() if self._endpoints[self._current].secure else self._pems
        if self._link is None or pems != self._pems:
            self._pems = pems
            replaced, self._link = self._link, _Link(self._channel(self._endpoints[self._current]))
            if replaced is not None:
                await replaced.retire()
        return self._link

    def _channel(self, endpoint: _Endpoint) -> grpc.aio.Channel:
        options: list[tuple[str, str | int]] = [
            *OPTIONS,
            ("grpc.max_receive_message_length", self._largest),
            ("grpc.keepalive_time_ms", round(self._times.ping * 1000)),
            # In grpcio 1.85 keepalive_timeout_ms does not detect a frozen server; this option does.
            ("grpc.http2.ping_timeout_ms", round(self._times.pong * 1000)),
        ]
        if not endpoint.secure:
            return grpc.aio.insecure_channel(endpoint.target, options)
        if self._tls.server_name:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        credentials = grpc.ssl_channel_credentials(
            root_certificates=self._pems.ca, private_key=self._pems.key, certificate_chain=self._pems.cert
        )
        return grpc.aio.secure_channel(endpoint.target, credentials, options)


class _Use:
    """One use of the client's channel, entered for each request. Failures are raised as our errors."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def __aenter__(self) -> _Link:
        self._link = await self._client._connected()
        self._link.users += 1
        return self._link

    async def __aexit__(self, kind: object, failure: BaseException | None, trace: object) -> None:
        await self._link.left()
        if isinstance(failure, grpc.aio.AioRpcError):
            error = error_of(failure.code(), failure.details() or "")
            if isinstance(error, Unavailable) and not isinstance(error, Refused):
                await self._client.leave(self._link)
                shown = self._client._pems.shown
                if shown is not None and ended(shown) and "Connection refused" not in str(error):
                    raise Denied(f"{error}: {shown.what} {ended(shown)}") from None
            raise error from None
        if isinstance(failure, grpc.aio.UsageError | asyncio.InvalidStateError):
            raise Unavailable(f"the connection was closed: {failure}") from None
        if isinstance(failure, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                raise Unavailable("the connection was closed") from None  # `close` was called: gRPC cancels its calls
