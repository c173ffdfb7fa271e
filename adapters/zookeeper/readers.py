"""Who reads a service in ZooKeeper: Dubbo's list of consumers, and what the admin servers say of watches and sessions.

No server lists watches on children, so an empty list proves nothing. Each server knows its own sessions only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import msgspec

from adapters.common.http import Http
from bridge.adapter import Certainty, Reader
from bridge.errors import IsthmusError
from bridge.model import ServiceName

ANSWER_TIME = 5.0  # seconds
MOST = 1000  # sessions of one server that are shown
MASK = (1 << 64) - 1  # a session's number is signed in some answers


class _Watches(msgspec.Struct, frozen=True):
    path_to_session_ids: Mapping[str, tuple[int, ...]] = {}


class _Connection(msgspec.Struct, frozen=True):
    remote_socket_address: str = ""
    session_id: int = 0
    last_operation: str = ""


class _Connections(msgspec.Struct, frozen=True):
    connections: tuple[_Connection, ...] = ()
    secure_connections: tuple[_Connection, ...] = ()


def consumers(name: ServiceName, folder: str, nodes: Collection[str], now: float) -> Iterator[Reader]:
    """The consumers in Dubbo's list, whose nodes die with their sessions; those of other groups are left out."""
    for url, said in _consumers(name, nodes):
        what = [f"{key} {said[key]}" for key in ("application", "version", "pid") if said.get(key)]
        yield Reader(
            who=f"{said.get('application', 'a consumer')} at {url.netloc}",
            certainty=Certainty.KNOWN,
            evidence=f"its node in {folder}: {', '.join(what) or 'nothing more'}",
            at=now,
        )


def kinds(name: ServiceName, nodes: Collection[str]) -> set[str]:
    """Which programs wrote these: dubbo-go says so in its `release`, Java has its bare version there."""
    return {"dubbo-go" if "golang" in said.get("release", "") else "dubbo" for _, said in _consumers(name, nodes)}


def _consumers(name: ServiceName, nodes: Collection[str]) -> Iterator[tuple[SplitResult, dict[str, str]]]:
    for node in nodes:
        url = urlsplit(unquote(node))
        said = {key: values[0] for key, values in parse_qs(url.query).items()}
        groups = said.get("group", "").split(",")
        if url.scheme == "consumer" and {name.namespace, "*"} & set(groups):
            yield url, said


class AdminServers:
    """The admin servers (`/commands/...`) of an ensemble; `chroot`: the chroot of our paths."""

    def __init__(self, urls: Collection[str], chroot: str) -> None:
        self._clients = [Http([url]) for url in urls]
        self._chroot = chroot

    async def close(self) -> None:
        """Ends every connection."""
        for client in self._clients:
            await client.close()

    async def readers(self, paths: Collection[str], ours: Collection[int], now: float) -> list[Reader]:
        """Sessions with a data watch at or below one of the paths, and all others, which may watch children."""
        found: list[Reader] = []
        for client in self._clients:
            try:
                watches = await client.call("GET", "/commands/watches_by_path", timeout=ANSWER_TIME)
                sessions = await client.call("GET", "/commands/connections", timeout=ANSWER_TIME)
                found += self._read(client.url, watches.json(_Watches), sessions.json(_Connections), paths, ours, now)
            except IsthmusError as error:
                who = f"the sessions of the server with the admin server {client.url}"
                found.append(Reader(who=who, certainty=Certainty.UNKNOWN, evidence=str(error), at=now))
        return found

    def _read(
        self,
        url: str,
        watches: _Watches,
        sessions: _Connections,
        paths: Collection[str],
        ours: Collection[int],
        now: float,
    ) -> Iterator[Reader]:
        own = {number & MASK for number in ours}
        watching: dict[int, str] = {}
        for path, numbers in watches.path_to_session_ids.items():
            if any(_within(path, f"{self._chroot}{each}") for each in paths):
                watching.update((number & MASK, path) for number in numbers)
        everyone = (*sessions.connections, *sessions.secure_connections)
        there = [one for one in everyone if one.session_id & MASK not in own]
        for one in there[:MOST]:
            watched = watching.get(one.session_id & MASK, "")
            evidence = f"watches {watched}" if watched else f"connected to {url}, last operation {one.last_operation}"
            certainty = Certainty.KNOWN if watched else Certainty.POSSIBLE
            yield Reader(who=one.remote_socket_address, certainty=certainty, evidence=evidence, at=now)
        if len(there) > MOST:
            rest = f"{len(there) - MOST} more sessions of {url}"
            yield Reader(who=rest, certainty=Certainty.POSSIBLE, evidence="not listed", at=now)


def _within(path: str, place: str) -> bool:
    """Whether a path is a place, below it, or one of its rules (`INTERFACE:VERSION:GROUP.configurators`)."""
    return path == place or path.startswith((f"{place}/", f"{place}:"))
