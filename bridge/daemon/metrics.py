"""What Prometheus gets: counters kept as plain numbers, and gauges computed when it asks."""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from bridge import __version__

# Upper bounds in seconds. A registry on the same machine is written within a millisecond; beyond 60 s is an outage.
BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)

SCOPE = ("registry", "scope")
SCOPES: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_scope_synced": (
        "1 while a scope has listed everything and is watched",
        lambda row: row["state"] == "synced",
    ),
    "isthmus_scope_age_seconds": ("Time since a scope was last known to be true", lambda row: row["age"]),
    "isthmus_scope_behind_seconds": (
        "For how long a scope's store has had changes that its watch has not told",
        lambda row: row.get("behind"),
    ),
    "isthmus_scope_doubted": (
        "1 while a scope's store is not believed to be the one known",
        lambda row: bool(row["doubt"]),
    ),
    "isthmus_scope_services": ("Services in a scope", lambda row: row["services"]),
    "isthmus_scope_instances": ("Instances in a scope", lambda row: row["instances"]),
    "isthmus_scope_unreadable": (
        "Records in a scope of which an instance cannot be read; what was known of it stays",
        lambda row: row.get("unreadable"),
    ),
    "isthmus_scope_unroutable": (
        "Instances in a scope whose address no other host can dial: loopback, link-local, unspecified",
        lambda row: row.get("unroutable"),
    ),
    "isthmus_scope_ignored": ("Records in a scope that make no sense", lambda row: row.get("ignored")),
}
LINKS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_link_held": ("Removals that the guard holds back", lambda row: row["held"]),
    "isthmus_link_parked": ("Instances that cannot be written until they change", lambda row: row["parked"]),
    "isthmus_link_shadowed": ("Instances that a native occupies at the target", lambda row: row["shadowed"]),
    "isthmus_link_withdrawn": (
        "Instances that may not be called, and are not written for that",
        lambda row: row.get("withdrawn"),
    ),
    "isthmus_link_lag_seconds": (  # none for links that observe: nothing is late there
        "Age of the oldest change seen and not written",
        lambda row: None if row["role"] == "observing" else row["lag"],
    ),
    "isthmus_link_frozen": ("1 while an operator has stopped the writes", lambda row: bool(row["frozen"])),
    "isthmus_configuration_differs": (
        "1 while this process stands by for a writer that runs another file",
        lambda row: bool(row.get("differs")),
    ),
    "isthmus_link_role": (  # none for links that observe: nobody is missed there
        "1: this process writes the link; 0: it stands by",
        lambda row: None if row["role"] == "observing" else row["role"] == "writer",
    ),
}
SHARD_KINDS = ("of", "writes", "should", "cares", "claims", "waits")
# Of moves that this process moves: the holder of the lock, and nobody else.
MOVES: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_migration_share_percent": ("What the new side of a move is meant to get", lambda row: row["share"]),
    "isthmus_migration_requests_percent": ("What it gets, as requests are counted", lambda row: row["requests"]),
    "isthmus_migration_step": ("The step that a move is at", lambda row: row["step"]),
}
GATE_PASSES: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_migration_gate_passes": ("1 while the last look at a gate passed", lambda row: bool(row["passes"])),
}
GATE_VALUES: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_migration_gate_value": ("What the last look at a gate saw of a side", lambda row: row["value"]),
}


class Metrics(Collector):
    """`status` gives what `isthmus status` shows; it is asked once a scrape, never on the way of a change."""

    def __init__(self, status: Callable[[], dict[str, Any]], bridge: str) -> None:
        self._status = status
        self._bridge = bridge
        self._changes: dict[tuple[str, str], int] = {}
        self._errors: dict[tuple[str, str], int] = {}
        self._took: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        self.unshipped: Callable[[], dict[str, int]] = dict  # by destination, what its log has not been told yet
        self.spans_dropped: Callable[[], int | None] = lambda: None  # None: there are no traces
        self.attention: Callable[[], dict[tuple[str, str], int]] = dict  # by code and level, how many subjects
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def written(self, link: str, kind: str, took: float) -> None:
        """One change of a link was written, so many seconds after its source reported it."""
        self._changes[link, kind] = self._changes.get((link, kind), 0) + 1
        counts = self._took.get(link)
        if counts is None:
            counts = self._took[link] = [0] * (len(BUCKETS) + 1)
            self._sums[link] = 0.0
        counts[bisect_left(BUCKETS, took)] += 1
        self._sums[link] += took

    def taken(self, link: str) -> None:
        """Somebody else removed an entry of a link."""
        self._changes[link, "taken"] = self._changes.get((link, "taken"), 0) + 1

    def failed(self, link: str, kind: str) -> None:
        """One change of a link failed; `kind` is the class of the error, of which there are few."""
        self._errors[link, kind] = self._errors.get((link, kind), 0) + 1

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing: there is one collector, whose names meet nobody's."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """For the registry of prometheus_client."""
        status = self._status()
        build = InfoMetricFamily("isthmus_build", "What runs here")
        build.add_metric((), {"version": __version__, "python": platform.python_version(), "bridge": self._bridge})
        yield build
        yield from _gauges(SCOPES, SCOPE, status["scopes"])
        yield from _gauges(LINKS, ("link",), status["links"])
        yield _shards(status["links"])
        yield from _gauges(MOVES, ("move",), status.get("moves", ()))
        gates = status.get("gates", ())
        yield from _gauges(GATE_VALUES, ("move", "gate", "side"), gates)
        once = {(row["move"], row["gate"]): row for row in gates}
        yield from _gauges(GATE_PASSES, ("move", "gate"), once.values())
        yield _counters("isthmus_link_changes", "Changes written; taken: entries that others removed", self._changes)
        yield _counters("isthmus_link_errors", "Changes that failed", self._errors)
        yield self._propagation()
        credentials = GaugeMetricFamily(
            "isthmus_credential_ends_timestamp_seconds", "When a credential ends", labels=("registry", "credential")
        )
        for row in status["credentials"]:
            credentials.add_metric((row["registry"], row["credential"]), row["ends"])
        yield credentials
        yield from self._dropped(status["journal_dropped"])
        fault = GaugeMetricFamily("isthmus_state_fault", "1 while the state folder cannot be written")
        fault.add_metric((), float(status["state_fault"] is not None))
        yield fault
        unshipped = GaugeMetricFamily(
            "isthmus_log_unshipped", "Lines of the journal that a log has not been told", labels=("destination",)
        )
        for name, count in self.unshipped().items():
            unshipped.add_metric((name,), float(count))
        yield unshipped
        attention = GaugeMetricFamily(
            "isthmus_attention", "Troubles that nobody has acknowledged, by code", labels=("code", "level")
        )
        for labels, count in self.attention().items():
            attention.add_metric(labels, float(count))
        yield attention

    def _dropped(self, records: float) -> Iterator[Metric]:
        dropped = CounterMetricFamily("isthmus_journal_dropped", "Records that the journal had no room for")
        dropped.add_metric((), records)
        yield dropped
        if (lost := self.spans_dropped()) is not None:
            spans = CounterMetricFamily("isthmus_spans_dropped", "Spans of traces that no collector was told")
            spans.add_metric((), lost)
            yield spans

    def _propagation(self) -> Metric:
        found = HistogramMetricFamily("isthmus_propagation_seconds", "From seen to written", labels=("link",))
        for link, counts in self._took.items():
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, total))
            found.add_metric((link,), buckets, self._sums[link])
        return found


def _gauges(
    table: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]],
    labels: tuple[str, ...],
    rows: Iterable[dict[str, Any]],
) -> Iterator[Metric]:
    rows = list(rows)
    for name, (help_text, value_of) in table.items():
        gauge = GaugeMetricFamily(name, help_text, labels=labels)
        for row in rows:
            value = value_of(row)
            if value is not None:
                gauge.add_metric([row[label] for label in labels], float(value))
        yield gauge


def _shards(links: Iterable[dict[str, Any]]) -> Metric:
    """Of links to destinations that a group writes: `of` how many shards, and what this process has of them."""
    gauge = GaugeMetricFamily("isthmus_shards", "Shards, by what this member has of them", labels=("link", "kind"))
    for row in links:
        for kind in SHARD_KINDS if row.get("shards") is not None else ():
            gauge.add_metric((row["link"], kind), float(row["shards"][kind]))
    return gauge


def _counters(name: str, help_text: str, counts: dict[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=("link", "kind"))
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family
