"""What Prometheus is told: counters kept as plain numbers, and gauges computed when it asks."""

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
    "isthmus_scope_doubted": (
        "1 while a scope's store is not believed to be the one known",
        lambda row: bool(row["doubt"]),
    ),
    "isthmus_scope_services": ("Services in a scope", lambda row: row["services"]),
    "isthmus_scope_instances": ("Instances in a scope", lambda row: row["instances"]),
    "isthmus_scope_ignored": ("Records in a scope that make no sense", lambda row: row.get("ignored")),
}
LINKS: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
    "isthmus_link_held": ("Removals that the guard holds back", lambda row: row["held"]),
    "isthmus_link_parked": ("Instances that cannot be written until they change", lambda row: row["parked"]),
    "isthmus_link_shadowed": ("Instances that a native occupies at the target", lambda row: row["shadowed"]),
    "isthmus_link_lag_seconds": ("Age of the oldest change seen and not written", lambda row: row["lag"]),
    "isthmus_link_frozen": ("1 while an operator has stopped the writes", lambda row: bool(row["frozen"])),
    "isthmus_configuration_differs": (
        "1 while this process stands by for a writer that runs another file",
        lambda row: bool(row.get("differs")),
    ),
    "isthmus_link_role": ("1: this process writes; 0: it stands by or observes", lambda row: row["role"] == "writer"),
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
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def written(self, link: str, kind: str, took: float) -> None:
        """One change of a link was written, so many seconds after its source was heard."""
        self._changes[link, kind] = self._changes.get((link, kind), 0) + 1
        counts = self._took.get(link)
        if counts is None:
            counts = self._took[link] = [0] * (len(BUCKETS) + 1)
            self._sums[link] = 0.0
        counts[bisect_left(BUCKETS, took)] += 1
        self._sums[link] += took

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
        yield _counters("isthmus_link_changes", "Changes written", self._changes)
        yield _counters("isthmus_link_errors", "Changes that failed", self._errors)
        yield self._propagation()
        dropped = CounterMetricFamily("isthmus_journal_dropped", "Records that the journal had no room for")
        dropped.add_metric((), status["journal_dropped"])
        yield dropped
        fault = GaugeMetricFamily("isthmus_state_fault", "1 while the state folder cannot be written")
        fault.add_metric((), float(status["state_fault"] is not None))
        yield fault

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


def _counters(name: str, help_text: str, counts: dict[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(name, help_text, labels=("link", "kind"))
    for labels, count in counts.items():
        family.add_metric(labels, count)
    return family
