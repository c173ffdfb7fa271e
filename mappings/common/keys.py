"""Keys of the form `service/id` below a prefix, as every layout but Dubbo's interface level has them."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Literal

from bridge.errors import Rejected
from bridge.model import ServiceName


def join(name: ServiceName, id: str, *, nested: Literal["name", "id"] | None = None) -> str:
    """`service/id`; `nested`: the part that may have a `/` in it, as `levels` or `below` reads it.

    Raises Rejected where another service or nobody would be found there.
    """
    service, namespace = name
    if namespace:
        raise Rejected(f"this layout has no namespaces, and {name} is in one: say the name with `rename:` on the link")
    if not service or not id:
        raise Rejected("empty id" if service else "empty service name")
    if "/" in service and nested != "name":
        raise Rejected(f"'/' in service name {service!r} would be read as another level")
    if "/" in id and nested != "id":
        raise Rejected(f"'/' in id {id!r} would be read as another level")
    return f"{service}/{id}"


def flat(id: str) -> str:
    """The id as one level of a key: the very same without a `/`, else with dots and a digest, for others have dots."""
    return f"{id.replace('/', '.')}-{hashlib.sha256(id.encode()).hexdigest()[:8]}" if "/" in id else id


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


def below(key: str) -> tuple[ServiceName, str] | None:
    """The same for readers that take all there is below a service of one level: the rest of the key is the id."""
    name, _, id = key.partition("/")
    return (_named(name), id) if name and id else None


def levels(key: str) -> tuple[ServiceName, str] | None:
    """The same where a service's name may have several levels (`services/user`): the last level is the id."""
    name, _, id = key.rpartition("/")
    return (_named(name), id) if name and id else None


_named = lru_cache(maxsize=64)(ServiceName)  # lists come in the order of services
