"""What a daemon shows of itself to somebody who may read some services alone; pure, over what it shows to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bridge.destination.reconciler import Reconciler
from bridge.engine.engine import Engine
from bridge.guard.holds import Item
from bridge.link import Link
from bridge.model import ServiceName
from bridge.override import Override
from bridge.report.values import Row
from bridge.shards import whole_of
from bridge.sources.view import View
from bridge.state.decisions import EVERY_LINK
from bridge.state.record import Record

Sees = Callable[[ServiceName], bool]

# Of a scope, what is counted without a name.
UNTOLD = ("left_out", "ignored")
# By code of a trouble that is about services of a link: the column of the link that counts them.
COUNTED = {"changes-held": "held", "instances-parked": "parked"}


class Seen:
    """What is shown of one daemon. `sees(name)`: whether a service may be read; `sees_link`: all that a link takes."""

    def __init__(self, engine: Engine, sees: Sees, sees_link: Callable[[Link], bool]) -> None:
        self._engine = engine
        self._sees = sees
        self.links = frozenset(
            link.name
            for one in engine.reconcilers.values()
            for link in one.destination.links
            if sees_link(link) or any(map(sees, _names(one, link)))
        )

    def rows(self, rows: Iterable[Row]) -> list[Row]:
        """Those of the services that may be read."""
        return [row for row in rows if self._sees(ServiceName.parse(row["service"]))]

    def overrides(self, rows: Iterable[Row]) -> list[Row]:
        """Those that are of services that may be read, whatever else their text may mean."""
        known = {name for view in self._engine.store.views() for name in view.services}
        return [row for row in rows if all(map(self._sees, known & {*_of(row)}))]

    def holds(self, rows: Iterable[Row]) -> list[Row]:
        """The held sets, each without the services that may not be read; `others`: how many removals those are."""
        found = []
        for row in rows:
            if items := self._items(row["items"]):
                services, others = len({item[1] for item in items}), len(row["items"]) - len(items)
                found.append({**row, "items": items, "instances": len(items), "services": services, "others": others})
        return found

    def pending(self, found: dict[str, list[Row]]) -> dict[str, list[Row]]:
        """A plan."""
        return {key: self.holds(rows) if key == "holds" else self.rows(rows) for key, rows in found.items()}

    def record(self, one: Record) -> bool:
        """Whether a line of the journal may be read: by its service, else by its link."""
        return self._sees(ServiceName.parse(one.service)) if one.service else one.link in self.links

    def status(self, now: Row) -> Row:
        """The screen of `status`."""
        links = [self._link(row) for row in now["links"] if row["link"] in self.links]
        views: dict[tuple[str, str], list[View]] = {}
        for view in self._engine.store.views():
            views.setdefault((view.registry, whole_of(view.scope)), []).append(view)
        return {
            **now,
            "scopes": [self._scope(row, views.get((row["registry"], row["scope"]), ())) for row in now["scopes"]],
            "links": links,
            "attention": self._troubles(now["attention"], links),
            "acknowledged": self._troubles(now["acknowledged"], links),
            "freezes": {key: row for key, row in now["freezes"].items() if key in self.links or key == EVERY_LINK},
            "expected": [row for row in now["expected"] if self._subject(row["subject"])],
            "approved": [row for row in now["approved"] if self._items(row["items"])],
            "overrides": self.overrides(now["overrides"]),
            "last_removals": self.rows(now["last_removals"]),
        }

    def _scope(self, row: Row, views: Sequence[View]) -> Row:
        if not views:
            return row
        services = [service for view in views for name, service in view.services.items() if self._sees(name)]
        unreadable = [ids for view in views for name, ids in view.unreadable.items() if self._sees(name)]
        return {
            **row,
            **dict.fromkeys(UNTOLD),
            "services": len(services),
            "instances": sum(len(service.instances) for service in services),
            "unreadable": sum(map(len, unreadable)),
            "unroutable": sum(self._sees(name) for view in views for name, _ in view.unroutable),
        }

    def _link(self, row: Row) -> Row:
        there = self._engine.reconcilers[row["to"]].destination
        waiting = [
            change
            for name, plan in there.plans.items()
            if self._sees(name)
            for change in (*plan.upserts, *(removal.change for removal in plan.removals))
        ]
        held = [one for name in there.holds.names() if self._sees(name) for one in there.holds.of(name).values()]
        return {
            **row,
            "waiting": sum(one.mark is not None and one.mark.link == row["link"] for one in waiting),
            "held": sum(one.item[0] == row["link"] for one in held),
            "parked": sum(self._sees(name) for name, _ in there.parked),
            "shadowed": sum(len(found) for name, found in there.shadowed.items() if self._sees(name)),
        }

    def _troubles(self, rows: Iterable[Row], links: Iterable[Row]) -> list[Row]:
        """Those that may be told; where services of a link are counted, with the number of those that may be read."""
        known = {link.name for link in self._engine.configuration.links}
        seen = {link["link"]: link for link in links}
        found = []
        for row in rows:
            if row["subject"] in known:
                if row["subject"] not in seen:
                    continue
                if (column := COUNTED.get(row["code"])) is not None:
                    count = seen[row["subject"]][column]
                    row = {**row, "count": count, "text": f"{count} {column}"}
                    if not count:
                        continue
            found.append(row)  # else of a registry, the disk, the process
        return found

    def _items(self, items: Iterable[Item]) -> list[Item]:
        return [item for item in items if self._sees(ServiceName.parse(item[1]))]

    def _subject(self, subject: str) -> bool:
        known = {link.name for link in self._engine.configuration.links}
        if subject in known:
            return subject in self.links
        return subject.partition("/")[0] not in self._engine.registries and self._sees(ServiceName.parse(subject))


def _names(reconciler: Reconciler, link: Link) -> Iterable[ServiceName]:
    """The services that a link has anything to do with now, at its target."""
    there = reconciler.destination
    for name, entries in there.entries.items():
        if any(entry.mark is not None and entry.mark.link == link.name for entry in entries.values()):
            yield name
    for name, plan in there.plans.items():
        if any(change.mark is not None and change.mark.link == link.name for change in plan.upserts):
            yield name


def _of(row: Row) -> set[ServiceName]:
    return {ServiceName.parse(service) for service, _, _ in Override(of=row["of"]).readings()}
