"""The answers of a Eureka server, decoded: all instances or the latest changes, and its uptime. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from bridge.errors import Unavailable, Undecodable
from bridge.model import ServiceName
from mappings import eureka as mapping
from mappings.eureka import Record

Key = tuple[str, str]  # application and id of an instance


class Known(NamedTuple):
    """One instance. `why`: the reason why its record is unreadable, "" if it is readable."""

    record: Record
    names: tuple[ServiceName, ...]
    why: str = ""

    @property
    def key(self) -> Key:
        return self.record.app, self.record.id


class Applications(NamedTuple):
    """An answer. `number`: of changes since the server started. `hash`: of the statuses of all instances after them."""

    number: int
    hash: str
    instances: list[Known]


class _Application(msgspec.Struct):
    name: str = ""
    instance: msgspec.Raw = msgspec.Raw(b"[]")


class _All(msgspec.Struct):
    number: str | int = msgspec.field(name="versions__delta", default=0)
    hash: str = msgspec.field(name="apps__hashcode", default="")
    application: list[_Application] | _Application = []


class _Envelope(msgspec.Struct):
    applications: _All


class _One(msgspec.Struct):
    application: _Application


class _Alone(msgspec.Struct):
    instance: msgspec.Raw


_ENVELOPE = msgspec.json.Decoder(_Envelope)
_ONE = msgspec.json.Decoder(_One)
_ALONE = msgspec.json.Decoder(_Alone)
_RAWS = msgspec.json.Decoder(list[msgspec.Raw])
_UPTIME = re.compile(r"<td>Uptime</td>\s*<td>(?:(\d+) days? )?(\d+):(\d+)</td>")
_EXPIRES = re.compile(r"<td>Lease expiration enabled</td>\s*<td>(true|false)</td>")


def applications(body: bytes) -> Applications:
    """Of `apps`, `apps/delta` and `vips/NAME`. Raises Unavailable: a broken answer is no observation."""
    try:
        found = _ENVELOPE.decode(body).applications
        # Servers from before 2012 send a list of one element as that element.
        several = found.application if isinstance(found.application, list) else [found.application]
        return Applications(int(found.number), found.hash, [each for one in several for each in _instances(one)])
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"Eureka answered what is not its list of applications: {error}") from error


def application(body: bytes) -> list[Known]:
    """Of `apps/NAME`. Raises Unavailable."""
    try:
        return _instances(_ONE.decode(body).application)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"Eureka answered what is no application: {error}") from error


def instance(body: bytes, app: str) -> Known:
    """Of `apps/NAME/ID`. Raises Unavailable."""
    try:
        return known(_ALONE.decode(body).instance, app)
    except (ValueError, RecursionError) as error:
        raise Unavailable(f"Eureka answered what is no instance: {error}") from error


def _instances(one: _Application) -> list[Known]:
    raw = bytes(one.instance)
    return [known(each, one.name) for each in (_RAWS.decode(raw) if raw.startswith(b"[") else [msgspec.Raw(raw)])]


def known(raw: msgspec.Raw, app: str) -> Known:
    """Decodes one instance by itself: an unreadable one spoils no other. Raises ValueError where it is no object."""
    try:
        record, why = mapping.read(raw), ""
    except Undecodable as error:
        said: dict[str, Any] = msgspec.json.decode(raw, type=dict)
        texts = {key: said[key] for key in ("instanceId", "hostName", "vipAddress") if isinstance(said.get(key), str)}
        record, why = Record(**texts, status=str(said.get("status", "UP"))), str(error)
    record.app = app.upper() or record.app.upper()
    return Known(record, tuple(mapping.names(record)), why)


def hash_of(statuses: Counter[str]) -> str:
    """The hash that servers make: the number of instances of each status."""
    return "".join(f"{status}_{count}_" for status, count in sorted(statuses.items()) if count)


def statuses(instances: Iterable[Known]) -> Counter[str]:
    """The number of instances of each status."""
    return Counter(one.record.status for one in instances)


class Page(NamedTuple):
    """From the status page. `uptime`: whole minutes. `expires`: whether leases expire, None is unknown.

    They do not while self-preservation is active.
    """

    uptime: int | None = None
    expires: bool | None = None


def page(html: str) -> Page:
    """Of `/lastn`: no other HTTP resource has these values."""
    up, expires = _UPTIME.search(html), _EXPIRES.search(html)
    minutes = (int(up[1] or 0) * 24 + int(up[2])) * 60 + int(up[3]) if up else None
    return Page(minutes, expires[1] == "true" if expires else None)
