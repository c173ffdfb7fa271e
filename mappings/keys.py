"""Keys of the form `service/id` below a prefix, as every layout but Dubbo's interface level has them."""

from __future__ import annotations

import re
from functools import lru_cache

from bridge.errors import Rejected
from bridge.model import ServiceName


def join(name: ServiceName, id: str) -> str:
    """`service/id`. Raises Rejected where another service or nobody would be found there."""
    service, namespace = name
    if namespace:
        raise Rejected(f"this layout has no namespaces, and {name} is in one: say the name with `rename:` on the link")
    if not service or not id:
        raise Rejected("empty id" if service else "empty service name")
    if "/" in service or "/" in id:
        word, text = ("service name", service) if "/" in service else ("id", id)
        raise Rejected(f"'/' in {word} {text!r} would be read as another level")
    return f"{service}/{id}"


# zookeeperProgrammers.md, "The ZooKeeper Data Model".
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]").search


def path(name: ServiceName, id: str) -> str:
    """The same as the path of a znode. Raises Rejected as well where ZooKeeper would refuse it."""
    return znode(join(name, id))


def znode(path: str) -> str:
    """The same path. Raises Rejected where ZooKeeper would refuse it."""
    if "/." in path or path.startswith("."):
        for segment in path.split("/"):
            if segment in (".", ".."):
                raise Rejected(f"ZooKeeper takes no {segment!r} in a path")
    if found := _FORBIDDEN(path):
        raise Rejected(f"ZooKeeper takes no {found[0]!r} in a path")
    return path


def split(key: str) -> tuple[ServiceName, str] | None:
    """The service and the entry's id; None: not of that form."""
    name, _, id = key.partition("/")
    return (_named(name), id) if name and id and "/" not in id else None


_named = lru_cache(maxsize=64)(ServiceName)  # lists come in the order of services
