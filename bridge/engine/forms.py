"""What links bring to a place, as its consumers will see it."""

from __future__ import annotations

import re

from msgspec.structs import replace

from bridge.adapter import Sink
from bridge.errors import Rejected
from bridge.link import Link
from bridge.model import Instance, ServiceName
from bridge.plan.route import as_sent

IPV4 = re.compile(r"[0-9.]+")


class Forms:
    """The forms of one service at one place; what would be refused is as its source has it.

    A place is asked once for all instances that differ by id and IPv4 address alone, as those of a service mostly do.
    """

    def __init__(self, sink: Sink, name: ServiceName) -> None:
        self._sink = sink
        self._name = name
        self._known: dict[tuple[object, ...], Instance] = {}

    def of(self, link: Link, one: Instance) -> Instance:
        """What a link brings of an instance."""
        said = (len(one.metadata), *one.metadata.items(), *one.native.items())
        shape = (link.name, one.ports, one.health, one.weight, one.locality, one.version, one.tags, said)
        known = self._known.get(shape)
        if known is not None and IPV4.fullmatch(one.address):
            return replace(known, id=one.id, address=one.address)
        try:
            form = self._sink.canonical(self._name, as_sent(link, one, self._sink.traits))
        except Rejected:
            return one
        if (form.id, form.address) == (one.id, one.address) and IPV4.fullmatch(one.address):
            self._known[shape] = form
        return form
