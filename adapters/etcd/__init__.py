"""etcd v3: the layouts of gRPC, go-kratos, Kitex, go-zero and go-micro, read and written."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, cast
from urllib.parse import urlsplit

import msgspec

from adapters.etcd import access
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd.client import RANGE, READ, ROLE, STATUS, TLS, USER, Client, Credentials, NoUser, reading
from adapters.etcd.keys import LEDGER, LOCKS, ROOT, Range, Space
from adapters.etcd.sink import EtcdSink
from adapters.etcd.source import EtcdSource
from bridge.adapter import Reach, Source
from bridge.errors import ConfigError, Denied
from bridge.model import ServiceName
from mappings.layout import Layout

LAYOUTS = {
    "grpc": "mappings.grpc",
    "kratos": "mappings.kratos",
    "kitex": "mappings.kitex",
    "go-zero": "mappings.gozero",
    "go-micro": "mappings.gomicro",
}


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One cluster, seen as one layout. `prefix` and `protocol` (of unnamed ports): the layout's own unless given.

    The password is read from `password_file` at each log-in, or is `password`.
    """

    endpoints: list[str]
    layout: Literal["grpc", "kratos", "kitex", "go-zero", "go-micro"]
    prefix: str | None = None
    protocol: str | None = None
    tls: TLS | None = None
    user: str | None = None
    password: str | None = None
    password_file: str | None = None


class Etcd:
    """One configured cluster and layout; see `bridge.adapter.Registry`."""

    def __init__(self, name: str, client: Client, space: Space) -> None:
        self.name = name
        self.traits = space.layout.TRAITS
        self.source = EtcdSource(client, space)
        self._client = client
        self._space = space

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source, for a cluster answers or fails as a whole."""
        yield self.source

    def sink(self, bridge: str) -> EtcdSink:
        """The destination side for that bridge."""
        return EtcdSink(self._client, self._space, bridge, lambda: datetime.now(UTC))

    async def reach(self) -> Reach:
        """See `Registry.reach`; the permissions are those of the user's roles, where we may ask for them."""
        client = self._client
        header, may_read, may_write = await self._permissions()
        try:
            status = await client.call(STATUS, pb.StatusRequest())
        except Denied:
            if header is None:
                header = (await client.call(RANGE, pb.RangeRequest(key=LEDGER, keys_only=True))).header
            note = "version and alarms are not known: etcd 3.6 shows them to root alone"
            return Reach(self._space.identity(header.cluster_id), "etcd", may_read, may_write, (note,))
        notes = [*status.errors]
        if not status.leader:
            notes.append("this member knows no leader")
        if status.is_learner:
            notes.append("this member is a learner: it answers no reads")
        identity = self._space.identity(status.header.cluster_id)
        return Reach(identity, f"etcd {status.version}", may_read, may_write, tuple(notes), await self._writers())

    async def raw(self, name: ServiceName) -> dict[str, str]:
        """Keys and values of one service, its ledger entries among them."""
        answer = await self._client.call(READ, reading([self._space.folder(name), self._space.words(name)]))
        return {
            kv.key.decode(errors="replace"): kv.value.decode(errors="replace")
            for response in answer.responses
            for kv in response.response_range.kvs
        }

    async def _writers(self) -> frozenset[str] | None:
        area = Range.below(LOCKS.encode())
        request = pb.RangeRequest(key=area.start, range_end=area.end, keys_only=True)
        try:
            answer = await self._client.call(RANGE, request)
        except Denied:  # locks are no part of what a reader must see
            return None
        return frozenset(bridge for kv in answer.kvs if (bridge := self._space.locker(kv.key)) is not None)

    async def _permissions(self) -> tuple[pb.Header | None, bool | None, bool | None]:
        """Who answers, and whether we may read and write (None is unknown); nothing is written to find out."""
        client = self._client
        try:
            # Asked of nobody in particular, the question itself is refused where authentication is on.
            user = await client.call(USER, pb.UserGetRequest(name=client.user or "root"))
        except NoUser:
            return (None, True, True) if client.user is None else (None, None, None)
        except Denied:
            return None, None, None
        if client.user is None or "root" in user.roles:
            return user.header, True, True
        permissions: list[pb.Permission] = []
        for role in user.roles:
            try:
                permissions += (await client.call(ROLE, pb.RoleGetRequest(role=role))).permissions
            except Denied:
                return user.header, None, None
        may_read = access.allows(permissions, access.READ, [*self._space.entries, self._space.ledger])
        # What a transaction compares, it must be allowed to read.
        written = [*self._space.entries, Range.below(ROOT.encode())]
        may_write = all(access.allows(permissions, kinds, written) for kinds in (access.READ, access.WRITE))
        return user.header, may_read, may_write


def create(name: str, config: Config, state: Path | None) -> Etcd:
    """The registry of one block of the configuration; keeps nothing in `state`. Raises ConfigError."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*(f"{name}: {fault}" for fault in faults))
    layout = cast(Layout, importlib.import_module(LAYOUTS[config.layout]))
    prefix = layout.PREFIX if config.prefix is None else config.prefix
    protocol = layout.PROTOCOL if config.protocol is None else config.protocol
    credentials = Credentials(config.user, _password(config)) if config.user else None
    return Etcd(name, Client(config.endpoints, config.tls, credentials), Space(layout, prefix, protocol))


def _faults(config: Config) -> Iterator[str]:
    if not config.endpoints:
        yield "endpoints: name at least one"
    for url in config.endpoints:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            yield f"endpoints: {url!r} is not http://host:port or https://host:port"
    if config.tls and not any(url.startswith("https:") for url in config.endpoints):
        yield "tls: no endpoint begins with https://"
    if config.tls and (config.tls.cert is None) != (config.tls.key is None):
        yield "tls: cert and key go together"
    passwords = [given for given in (config.password, config.password_file) if given is not None]
    if (config.user is None) != (not passwords) or len(passwords) > 1:
        yield "user: goes together with one of password and password_file"
    if config.prefix is not None and config.prefix.startswith(ROOT):
        yield f"prefix: {ROOT} is where bridges keep their ledger"


def _password(config: Config) -> Callable[[], str]:
    if config.password_file is None:
        return lambda: config.password or ""
    path = Path(config.password_file)
    return lambda: path.read_text().rstrip("\r\n")
