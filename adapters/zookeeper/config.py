"""The block of a `zookeeper` registry in the configuration file, and the ensemble that it names."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec

from adapters.common.credentials import Tls, secret
from adapters.common.urls import is_url

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/,@\[\]]+)(:\d{1,5})?")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\$\w+)*")
_RESERVED = ("/isthmus", "/zookeeper")


class Digest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A user of the scheme `digest`."""

    user: str
    password: str | None = None
    password_file: str | None = None

    def __post_init__(self) -> None:
        if (self.password is None) == (self.password_file is None):
            raise ValueError("give either password or password_file")

    def credential(self) -> str:
        """`user:password`; raises Denied where the file cannot be read."""
        return f"{self.user}:{secret(self.password, self.password_file)()}"


class Ensemble(NamedTuple):
    """The servers, as `host:port` in the order given, and the chroot, "" or like `/apps/registry`."""

    hosts: tuple[str, ...]
    chroot: str


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """`hosts`: `host:port` each, the last one with the chroot if there is one; `session_timeout` in seconds.

    `root` is where the layout's entries are, default the layout's own; `protocol` names unnamed ports.
    `payload`, of the layout curator: what metadata is written as: `none`, `map`, or the name of a Java class. Default:
    as Curator wrote it, else as the service's other records have it, else none, which readers of every class take.
    `admin`: the URL of each server's admin server, for `migrate readers` alone.
    """

    hosts: list[str]
    layout: Literal["curator", "spring", "dubbo2", "dubbo3"]
    root: str | None = None
    protocol: str | None = None
    payload: str | None = None
    tls: Tls | None = None
    auth: Digest | None = None
    session_timeout: float = 30.0
    admin: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.ensemble()
        if self.payload is not None:
            if self.layout != "curator":
                raise ValueError(f"payload is for the layout curator; the readers of {self.layout} take one class only")
            if self.payload not in ("none", "map") and not _CLASS.fullmatch(self.payload):
                raise ValueError(
                    f"payload {self.payload!r} is no class of Java; write none, map or e.g. com.acme.Details"
                )
        if self.root is not None:
            path_of(self.root, "root")
            if self.root == "/" or any(f"{self.root}/".startswith(f"{each}/") for each in _RESERVED):
                raise ValueError(f"root {self.root!r} is not a place for services")
        for url in self.admin:
            if not is_url(url, path=False):
                raise ValueError(f"admin: {url!r} is not http://host:port or https://host:port")
        if not 1.0 <= self.session_timeout <= 3600.0:
            raise ValueError("session_timeout is 1 to 3600 seconds")

    def ensemble(self) -> Ensemble:
        """The servers and the chroot; raises ValueError."""
        hosts: list[str] = []
        chroot = ""
        for host in (host for text in self.hosts for host in text.split(",")):
            address, slash, below = host.partition("/")
            found = _HOST.fullmatch(address)
            if chroot or found is None or (found[2] and int(found[2][1:]) > 65535):
                raise ValueError(f"hosts: {host!r} is not host:port, or follows the chroot, which comes last")
            hosts.append(address if found[2] else f"{address}:2181")
            if slash and below:
                chroot = path_of(f"/{below}", "the chroot")
        if not hosts:
            raise ValueError("hosts: at least one is needed")
        return Ensemble(tuple(hosts), chroot)


def path_of(path: str, what: str) -> str:
    """The path itself, if ZooKeeper takes it; raises ValueError."""
    if not is_path(path):
        raise ValueError(f"{what} {path!r} is not a path of ZooKeeper: it begins with / and does not end with it")
    return path


def is_path(path: str) -> bool:
    """Whether ZooKeeper would take it (PathUtils.validatePath)."""
    if path == "/":
        return True
    return path.startswith("/") and all(
        segment not in ("", ".", "..") and not _UNFIT.search(segment) for segment in path[1:].split("/")
    )


_UNFIT = re.compile("[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]")
