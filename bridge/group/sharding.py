"""To which shard each name of a destination belongs: that of the services which its entries were copied from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from bridge.adapter import Entry
from bridge.model import ServiceName


def part(count: int, mine: Iterable[int], shards: int) -> int:
    """How much of a number falls to some shards, where all of them together have exactly that much."""
    return sum(count * (shard + 1) // shards - count * shard // shards for shard in mine)


NOTHING: Mapping[str, Entry] = MappingProxyType({})


class Sharding:
    """The shards of one destination.

    `shard_of(service)`: the shard of a service of the stream, which has `count` of them. `entries`: what the
    destination holds. `feeding(name)`: the services of the stream that feed a name. `owner`: whose entries count.
    """

    def __init__(
        self,
        shard_of: Callable[[ServiceName], int],
        entries: Mapping[ServiceName, Mapping[str, Entry]],
        feeding: Callable[[ServiceName], Iterable[ServiceName]],
        owner: str,
        count: int,
    ) -> None:
        self.shard_of = shard_of
        self.count = count
        self._entries = entries
        self._feeding = feeding
        self._owner = owner

    def of(self, name: ServiceName) -> int:
        """The shard of a name; of several the one that comes first, and nothing is written there (`clash`)."""
        for service in self._feeding(name):  # of every name this is asked where a shard comes or goes
            return self.shard_of(service)
        for entry in self._entries.get(name, NOTHING).values():
            if entry.mark is not None and entry.mark.owner == self._owner:
                return self.shard_of(entry.mark.service)
        return self.shard_of(name)  # where there is nothing of ours, any shard will do, always the same

    def all(self, name: ServiceName, entries: Mapping[str, Entry]) -> list[int]:
        """The shards of a name, at least one, where that is what stands there."""
        services = [*self._feeding(name), *self._copied(entries)] or [name]
        return list(dict.fromkeys(map(self.shard_of, services)))

    def clash(self, name: ServiceName) -> str:
        """Why nothing may change under a name, "" if it may: it is made of services of several shards.

        Each shard has a writer of its own, which would take the other's entries for what is not wanted any more.
        """
        first: dict[int, ServiceName] = {}
        last: ServiceName | None = None
        for service in self._services(name):
            if service != last:
                last = service
                first.setdefault(self.shard_of(service), service)
        if len(first) < 2:
            return ""
        said = ", ".join(f"{service} (shard {shard})" for shard, service in sorted(first.items()))
        return f"it is made of services that different members of the group write: {said}; rename one of them"

    def _services(self, name: ServiceName) -> Iterator[ServiceName]:
        yield from self._feeding(name)
        yield from self._copied(self._entries.get(name, {}))

    def _copied(self, entries: Mapping[str, Entry]) -> Iterator[ServiceName]:
        """Which services our entries are copies of."""
        for entry in entries.values():
            if entry.mark is not None and entry.mark.owner == self._owner:
                yield entry.mark.service
