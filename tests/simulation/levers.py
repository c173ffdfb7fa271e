"""Rules of a service at a registry in memory, as Dubbo has them: who is out by which bridge, beside what others say."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bridge.adapter import Lever
from bridge.errors import Conflict
from bridge.model import Instance, ServiceName

if TYPE_CHECKING:
    from tests.simulation.client import Client
    from tests.simulation.world import Server


class Rule(NamedTuple):
    """What one says. `theirs`: what others wrote, `out`: the natives that are out, by bridge."""

    theirs: str = ""
    out: Mapping[str, Sequence[str]] = {}  # never changed

    @classmethod
    def read(cls, content: bytes | None) -> Rule:
        """Of what stands there; None: nothing."""
        return cls(**json.loads(content)) if content is not None else cls()

    def written(self) -> bytes | None:
        """As it is to stand there; None: nothing is said."""
        return json.dumps(self._asdict()).encode() if self.theirs or self.out else None

    def everybody(self) -> set[str]:
        """All natives that are out."""
        return {one for some in self.out.values() for one in some}


class Rules:
    """The rules of one registry, by service; each write has a number."""

    def __init__(self) -> None:
        self._rules: dict[str, tuple[bytes | None, int]] = {}

    def of(self, service: ServiceName) -> Rule:
        """What is said of a service."""
        return Rule.read(self.lever(str(service)).content)

    def lever(self, place: str) -> Lever:
        """What stands there."""
        return Lever(place, *self._rules.get(place, (None, 0)))

    def put(self, place: str, content: bytes | None) -> None:
        """Somebody writes it."""
        self._rules[place] = content, self.lever(place).version + 1


class LeverLine:
    """See `bridge.adapter.Levers`: the levers as one process moves them; the world is told of each move."""

    def __init__(self, process: Client, server: Server, bridge: str) -> None:
        self._process = process
        self._server = server
        self._bridge = bridge

    def key_of(self, instance: Instance) -> str:
        """See `Levers.key_of`."""
        return instance.id

    async def places(self, name: ServiceName, natives: Sequence[Instance]) -> Mapping[str, str]:
        """See `Levers.places`."""
        await self._reached()
        return {one.id: str(name) for one in natives}

    async def lever(self, place: str) -> Lever:
        """See `Levers.lever`."""
        await self._reached()
        return self._server.rules.lever(place)

    def set_to(self, lever: Lever, name: ServiceName, out: Collection[str]) -> bytes | None:
        """See `Levers.set_to`."""
        rule = Rule.read(lever.content)
        if sorted(rule.out.get(self._bridge, ())) == sorted(out):
            return lever.content
        others = {bridge: some for bridge, some in rule.out.items() if bridge != self._bridge}
        return rule._replace(out=others | ({self._bridge: sorted(out)} if out else {})).written()

    async def put(self, before: Lever, content: bytes | None) -> Lever:
        """See `Levers.put`."""
        await self._reached()
        if self._server.rules.lever(before.place) != before:
            raise Conflict(f"{before.place} is not what it was")
        assert self._process.world.moves is not None
        self._process.world.moves.has_steered(self._process, self._server, before, content)
        self._server.rules.put(before.place, content)
        return self._server.rules.lever(before.place)

    async def _reached(self) -> None:
        await self._process.living()
        self._process.reach(self._server)
        await self._server.reached()
