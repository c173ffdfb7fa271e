"""What a bridge has left in a store, by kind and count, and what each of it is still needed for; pure."""

from __future__ import annotations

from collections.abc import Sequence

from bridge.adapter import Held, Trace
from bridge.plan.purge import plan_purge
from bridge.report.attention import few
from bridge.report.values import Row


def footprint_rows(registry: str, bridge: str, held: Held | None, traces: Sequence[Trace]) -> list[Row]:
    """One row for each kind and reason: `count`, `needed` ("" it goes with `leave`), and the `places`.

    `held`: all that is there, None where this bridge cannot write there.
    """
    rows = _entry_rows(registry, bridge, held) if held is not None else []
    entries = sum(row["count"] for row in rows)
    groups: dict[tuple[str, str], list[str]] = {}
    for trace in traces:
        needed = trace.needed or (f"the {entries} entries here" if entries else "")
        groups.setdefault((trace.kind, needed), []).append(trace.place)
    return rows + [_row(registry, kind, needed, places) for (kind, needed), places in groups.items()]


def _entry_rows(registry: str, bridge: str, held: Held) -> list[Row]:
    """Entries that others serve the services of as well, and those that are the only serving ones."""
    purged = plan_purge(held, bridge)
    goes = [f"{one.service}/{one.id}" for one in purged.changes if not one.forget]
    loose = [f"{one.service}/{one.id}" for one in purged.changes if one.forget]
    spared = [
        f"{name}/{id}"
        for name in purged.spared
        for id, entry in held.services[name].items()
        if entry.mark is not None and entry.mark.owner == bridge
    ]
    why = f"nobody else serves {few([str(name) for name in purged.spared])}"
    found = (("entry", "", goes), ("loose ledger entry", "", loose), ("entry", why, spared))
    return [_row(registry, kind, needed, places) for kind, needed, places in found if places]


def _row(registry: str, kind: str, needed: str, places: list[str]) -> Row:
    return {"registry": registry, "kind": kind, "count": len(places), "needed": needed, "places": places}
