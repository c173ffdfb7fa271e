"""Keys of the form `service/id` below a prefix, as every etcd layout but Dubbo's has them."""

from __future__ import annotations

from bridge.errors import Rejected
from bridge.model import ServiceName


def join(name: ServiceName, id: str) -> str:
    """`service/id`. Raises Rejected where another service or nobody would be found there."""
    if name.namespace:
        raise Rejected(f"this layout has no namespaces, and {name} is in one: say the name with `rename:` on the link")
    for word, text in (("service name", name.name), ("id", id)):
        if not text:
            raise Rejected(f"empty {word}")
        if "/" in text:
            raise Rejected(f"'/' in {word} {text!r} would be read as another level")
    return f"{name.name}/{id}"


def split(key: str) -> tuple[ServiceName, str] | None:
    """The service and the entry's id; None: not of that form."""
    name, _, id = key.partition("/")
    return (ServiceName(name), id) if name and id and "/" not in id else None
