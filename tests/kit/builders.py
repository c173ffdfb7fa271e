"""Values of the model with sensible defaults, for tests that care about one or two of the fields."""

from __future__ import annotations

from typing import Any

from bridge.link import Link, Policy, Services
from bridge.model import Instance, Mark, Port, ServiceName

PAY = ServiceName("pay")


def instance(id: str, address: str = "", port: int = 8080, **fields: Any) -> Instance:
    """An instance with one http port; without `address`, ids with different numbers get different addresses."""
    number = int("".join(c for c in id if c.isdigit()) or 1)
    return Instance(id, address or f"192.0.2.{number % 250}", (Port(port, "http", "http"),), **fields)


def mark(id: str, owner: str = "b1", service: ServiceName = PAY, link: str = "link", origin: str = "origin") -> Mark:
    """The mark of a copy that `owner` made of an instance of the registry with the identity `origin`."""
    return Mark(owner, link, (origin,), "", service, id)


def link(to: str = "target", *froms: str, **fields: Any) -> Link:
    """A sync link for all services; from `source` where nothing else is given."""
    return Link(
        **{
            "name": f"{'-'.join(froms or ('source',))}-to-{to}",
            "from_": froms or ("source",),
            "to": to,
            "policy": Policy.SYNC,
            "services": Services(include=("*",)),
            **fields,
        }
    )
