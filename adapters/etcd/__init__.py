"""etcd v3: the layouts of gRPC, go-kratos, Kitex, go-zero and go-micro, read and written."""

from __future__ import annotations

import importlib
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self, cast

import msgspec

from adapters.common import places
from adapters.common.credentials import Tls, secret
from adapters.common.shards import MovedDividedSeat
from adapters.common.urls import is_url
from adapters.etcd import etcd_pb2 as pb
from adapters.etcd import ledger, permissions
from adapters.etcd.client import RANGE, READ, STATUS, Client, Credentials, NoUser, reading
from adapters.etcd.keys import LEDGER, ROOT, Range, Space
from adapters.etcd.readers import Counters
from adapters.etcd.seat import EtcdNotes, EtcdSeat, Places
from adapters.etcd.sink import EtcdSink
from adapters.etcd.source import EtcdSource
from adapters.etcd.times import TIMES, Times
from adapters.etcd.txn import BYTES, CHANGES
from bridge.adapter import Credential, Notes, Raw, Reach, Reader, Right, Seat, Source, Trace
from bridge.errors import ConfigError, Denied, Fault, Undecodable
from bridge.model import ServiceName
from mappings.layout import Layout

LAYOUTS = {
    "grpc": "mappings.grpc",
    "kratos": "mappings.kratos",
    "kitex": "mappings.kitex",
    "go-zero": "mappings.gozero",
    "go-micro": "mappings.gomicro",
}
LIMITS = (f"a transaction has at most {CHANGES} changes and {BYTES:,} bytes; a larger entry is parked",)

OTHER_LAYOUT = "it is of another layout or prefix in this store: name that in the file, and leave it"


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """One cluster, seen as one layout. `prefix` and `protocol` (of unnamed ports): the layout's own unless given.

    The password is read from `password_file` at each log-in, or is `password`.
    """

    endpoints: list[str]
    layout: Literal["grpc", "kratos", "kitex", "go-zero", "go-micro"]
    prefix: str | None = None
    protocol: str | None = None
    tls: Tls | None = None
    user: str | None = None
    password: str | None = None
    password_file: str | None = None


class Etcd:
    """One configured cluster and layout; see `bridge.adapter.Registry`."""

    def __init__(self, name: str, client: Client, space: Space, counters: Counters, times: Times = TIMES) -> None:
        self.name = name
        self._times = times
        self.traits = space.layout.TRAITS
        self.source = EtcdSource(client, space, times)
        self._client = client
        self._space = space
        self._counters = counters
        self._sinks: dict[str, EtcdSink] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._counters.close()
        await self._client.close()

    async def scopes(self) -> AsyncIterator[Source]:
        """One source: a cluster answers or fails as a whole."""
        yield self.source

    def sink(self, bridge: str) -> EtcdSink:
        """The destination side for that bridge; one, which `seat` knows."""
        return self._sinks.setdefault(bridge, EtcdSink(self._client, self._space, bridge))

    def seat(self, bridge: str, destination: str) -> Seat:
        """The lock and the note below `/isthmus/`. While our own lock is held, the leases of entries are renewed."""
        lent = "" if destination == self.name else destination
        places, ttl = Places.of(self._space.own, bridge, lent), self._times.lock
        if lent:
            return EtcdSeat(self._client, places, _now, ttl)
        own = EtcdSeat(self._client, places, _now, ttl, self.sink(bridge).renewing)
        old = places._replace(note=self._space.own.old_note(bridge).encode())
        return MovedDividedSeat(own, EtcdSeat(self._client, old, _now, ttl))

    def notes(self, bridge: str) -> Notes:
        """See `bridge.adapter.Keeper`."""
        return EtcdNotes(self._client, self._space.own, bridge)

    def credentials(self) -> list[Credential]:
        """See `bridge.adapter.Credentialed`."""
        return self._client.credentials()

    async def reach(self) -> Reach:
        """See `Registry.reach`; the permissions are those of the user's roles, where we may ask for them."""
        client = self._client
        header, may_read, may_write = await self._permissions()
        where = self._space.prefix or "every key"
        rights = (Right(f"read {where}", may_read), Right(f"read and write {where} and {ROOT}", may_write))
        try:
            status = await client.call(STATUS, pb.StatusRequest())
        except Denied:
            if header is None:
                header = (await client.call(RANGE, pb.RangeRequest(key=LEDGER, keys_only=True))).header
            note = "version and alarms are not known: etcd 3.6 shows them to root alone"
            who = self._space.identity(header.cluster_id)
            return Reach(who, "etcd", may_read, may_write, (note,), rights=rights, limits=LIMITS)
        notes = [*status.errors]
        prefix = self._space.prefix
        if prefix and not prefix.endswith("/"):
            notes.append(f"prefix {prefix!r} does not end with /: its keys are {prefix}SERVICE/ID; is {prefix}/ meant?")
        if not status.leader:
            notes.append("this member knows no leader")
        if status.is_learner:
            notes.append("this member is a learner: it answers no reads")
        identity = self._space.identity(status.header.cluster_id)
        return Reach(
            identity,
            f"etcd {status.version}",
            may_read,
            may_write,
            tuple(notes),
            await self._writers(),
            rights,
            LIMITS,
        )

    async def raw(self, name: ServiceName) -> list[Raw]:
        """See `Registry.raw`: the keys and values of one service, then its ledger entries."""
        answer = await self._client.call(READ, reading([self._space.folder(name), self._space.proofs(name)]))
        entries, proofs = (response.response_range.kvs for response in answer.responses)
        # Services with longer names (`user/v2`) have their keys below this one, too.
        found = [self._raw(name, kv) for kv in entries if (self._space.locate(kv.key) or (name,))[0] == name]
        for kv in proofs:
            place = self._space.locate(ledger.data_of(kv.key))
            if place is not None and place[0] == name:
                found.append(Raw(kv.key.decode(errors="replace"), kv.value.decode(errors="replace")))
        return found

    async def readers(self, name: ServiceName) -> list[Reader]:
        """See `Readers`: etcd counts watches and reads, but not by client or by key."""
        return await self._counters.readers(time.time())

    async def traces(self, bridge: str) -> list[Trace]:
        """See `Tracer`: all keys below `/isthmus/`. The leases of the lock and of entries expire by themselves."""
        answer = await self._client.call(READ, reading([Range.below(ROOT.encode())]))
        kvs = answer.responses[0].response_range.kvs
        found = self._space.own.traces(bridge, [kv.key.decode(errors="replace") for kv in kvs])
        for kv in kvs:
            mark = ledger.proof_of(kv).mark if kv.key.startswith(LEDGER) else None
            if mark is not None and mark.owner == bridge:
                elsewhere = "" if self._space.has(ledger.data_of(kv.key)) else OTHER_LAYOUT
                found.append(Trace("ledger entry", kv.key.decode(errors="replace"), elsewhere))
        return found

    def _raw(self, name: ServiceName, kv: pb.KeyValue) -> Raw:
        key, text = kv.key.decode(errors="replace"), kv.value.decode(errors="replace")
        place = self._space.locate(kv.key)
        if place is None:
            return Raw(key, text, "", f"no key that {self._space.layout.NAME} makes")
        try:
            self._space.layout.decode(name, place[1], kv.value, self._space.protocol)
        except Undecodable as error:
            return Raw(key, text, place[1], str(error))
        except Exception as bug:  # as in a watch: a bug of a mapping costs one record
            return Raw(key, text, place[1], f"a bug in the mapping: {bug!r}")
        return Raw(key, text, place[1])

    async def _writers(self) -> frozenset[str] | None:
        area = Range.below(f"{places.LOCKS}/".encode())
        request = pb.RangeRequest(key=area.start, range_end=area.end, keys_only=True)
        try:
            answer = await self._client.call(RANGE, request)
        except Denied:  # a reader needs no permission for the locks
            return None
        keys = (kv.key.decode(errors="replace") for kv in answer.kvs)
        return frozenset(bridge for key in keys if (bridge := self._space.own.bridge_of(key)) is not None)

    async def _permissions(self) -> tuple[pb.Header | None, bool | None, bool | None]:
        """The answer's header, and whether we may read and write (None: unknown). Nothing is written to find out."""
        try:
            header, granted = await permissions.granted(self._client)
        except NoUser:
            return (None, True, True) if self._client.user is None else (None, None, None)
        except Denied:
            return None, None, None
        if granted is None:
            return header, True, True
        may_read = permissions.allows(granted, permissions.READ, [*self._space.entries, self._space.ledger])
        # A transaction needs permission to read what it compares.
        written = [*self._space.entries, Range.below(ROOT.encode())]
        may_write = all(permissions.allows(granted, kinds, written) for kinds in (permissions.READ, permissions.WRITE))
        return header, may_read, may_write


def place(config: Config) -> tuple[frozenset[str], str]:
    """Where a registry's entries are: its servers, and the prefix of all its keys."""
    return frozenset(config.endpoints), _prefix(config)


def _now() -> datetime:
    return datetime.now(UTC)


def create(name: str, config: Config, state: Path | None, times: Times = TIMES) -> Etcd:
    """The registry of one block of the configuration; keeps nothing in `state`. Raises ConfigError."""
    faults = list(_faults(config))
    if faults:
        raise ConfigError(*faults)
    layout = cast(Layout, importlib.import_module(LAYOUTS[config.layout]))
    prefix = _prefix(config)
    protocol = layout.PROTOCOL if config.protocol is None else config.protocol
    credentials = Credentials(config.user, secret(config.password, config.password_file)) if config.user else None
    client = Client(config.endpoints, config.tls, credentials, times)
    return Etcd(name, client, Space(layout, prefix, protocol), Counters(config.endpoints, config.tls), times)


def _prefix(config: Config) -> str:
    layout = cast(Layout, importlib.import_module(LAYOUTS[config.layout]))
    return layout.PREFIX if config.prefix is None else config.prefix


def _faults(config: Config) -> Iterator[Fault]:
    if not config.endpoints:
        yield Fault("name at least one", ("endpoints",))
    for index, url in enumerate(config.endpoints):
        if not is_url(url, path=False):
            yield Fault(f"{url!r} is not http://host:port or https://host:port", ("endpoints", index))
    if config.tls and not any(url.startswith("https:") for url in config.endpoints):
        yield Fault("no endpoint begins with https://", ("tls",))
    if config.tls:
        yield from config.tls.faults()
    passwords = [given for given in (config.password, config.password_file) if given is not None]
    if (config.user is None) != (not passwords) or len(passwords) > 1:
        yield Fault("goes together with one of password and password_file", ("user",))
    if config.prefix is not None and config.prefix.startswith(ROOT):
        yield Fault(f"{ROOT} is where bridges keep their ledger", ("prefix",))
