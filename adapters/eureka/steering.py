"""Eureka's lever: an override of the status of one instance, which its heartbeats and registrations do not undo.

Seen on eureka-core 2.0.4: it sticks over heartbeats, a registration with UP, and a kill and restart of the client. An
orderly stop of the client clears it, and so does the restart of a server without peers. Who takes it away says the
status from then on. The server keeps it by the instance's id alone, over all applications.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from adapters.eureka.client import Client
from bridge.adapter import Lever
from bridge.errors import Conflict, Rejected
from bridge.model import Instance, ServiceName
from mappings import eureka as mapping

OUT = b"OUT_OF_SERVICE"
NOT_OVERRIDDEN = ("UNKNOWN", "")
UP = "UP"
PLACE = "apps/"


class StatusOverrides:
    """See `bridge.adapter.Levers`: a lever of one native each; its key is the id of the entry."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def key_of(self, instance: Instance) -> str:
        """See `Levers.key_of`."""
        return instance.id

    async def places(self, name: ServiceName, natives: Sequence[Instance]) -> Mapping[str, str]:
        """See `Levers.places`. Raises Rejected where an override would take more than that native out."""
        all = (await self._client.full()).instances
        wanted = {one.id for one in natives}
        found: dict[str, str] = {}
        for one in all:
            id = mapping.entry_id(name, one.record)
            if name not in one.names or id not in wanted:
                continue
            if len(one.names) > 1:
                others = ", ".join(str(other) for other in one.names if other != name)
                raise Rejected(f"{id} is an instance of {others} as well, which would lose it, too")
            if twins := sorted(two.record.app for two in all if two.record.id == one.record.id and two.key != one.key):
                raise Rejected(f"{twins[0]} has an instance {one.record.id}, too: Eureka overrides by the id alone")
            if set("/\\") & set(one.record.id):
                raise Rejected(f"{one.record.id}: Tomcat refuses such an id in a path")
            found[id] = f"{PLACE}{one.record.app}/{one.record.id}"
        return found

    async def lever(self, place: str) -> Lever:
        """See `Levers.lever`. The version is the status that is shown, None: there is no such instance."""
        found = await self._client.instance(*_key(place))
        if found is None:
            return Lever(place, None)
        said = found.record.overriddenStatus
        return Lever(place, None if said in NOT_OVERRIDDEN else said.encode(), found.record.status)

    def set_to(self, lever: Lever, name: ServiceName, out: Collection[str]) -> bytes | None:
        """See `Levers.set_to`; an override that is not ours stays."""
        if not out:
            return None if lever.content == OUT else lever.content
        if lever.content not in (None, OUT):
            raise Rejected(f"{lever.place}: somebody has overridden its status with {lever.content.decode()}")
        return OUT if lever.version is not None else lever.content  # who is gone serves nobody

    async def put(self, before: Lever, content: bytes | None) -> Lever:
        """See `Levers.put`: compared by a look just before, for Eureka has no compare-and-set."""
        stands = await self.lever(before.place)
        if stands.content != before.content or stands.version is None:
            raise Conflict(f"{before.place}: its override is not what it was")
        if content is not None:
            await self._client.override(*_key(before.place), content.decode())
        elif stands.content is not None:
            # What it says of itself shows only where it is not what the override says.
            own = UP if stands.version == stands.content.decode() else stands.version
            await self._client.restore(*_key(before.place), own)
        return await self.lever(before.place)


def _key(place: str) -> tuple[str, str]:
    app, _, id = place.removeprefix(PLACE).partition("/")
    return app, id
