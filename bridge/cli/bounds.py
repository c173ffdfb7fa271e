"""Every bound that the code has beside its constant, with what happens beyond it: `make docs` writes docs/limits.md."""

from __future__ import annotations

import importlib
from typing import NamedTuple


class Bound(NamedTuple):
    """One bound: `constant` of `module`. `what` is bounded, and what happens `beyond` it. `unit`: of the number.

    `metric`: what shows that it is reached. `key`: of the configuration, or the option, that changes it. "": none.
    """

    module: str
    constant: str
    what: str
    beyond: str
    unit: str = ""
    metric: str = ""
    key: str = ""

    @property
    def value(self) -> str:
        """What the code says, for people."""
        value = getattr(importlib.import_module(self.module), self.constant)
        return f"{value:,} {self.unit}".strip() if isinstance(value, int) else f"{value:g} {self.unit}".strip()


BOUNDS = (
    Bound(
        "adapters.common.serving",
        "CLIENTS",
        "clients of an HTTP export that are known",
        "the one not seen for longest is forgotten",
    ),
    Bound(
        "adapters.common.touched",
        "GONE_KEPT",
        "services, or resources of xDS, that an export served once",
        "its clients are compared with all that is served",
    ),
    Bound(
        "adapters.xds.stream",
        "SIZE",
        "resources in one response of xDS",
        "the rest comes in the next one",
        unit="bytes",
    ),
    Bound(
        "adapters.xds.stream", "NAMES", "names that one xDS client subscribes to", "it is told of the others nothing"
    ),
    Bound(
        "adapters.xds.resources", "BEGINNINGS", "responses kept for xDS clients that begin alike", "put together again"
    ),
    Bound(
        "adapters.xds.server", "MANY", "names in a request that is compared with those of other clients", "below: read"
    ),
    Bound("adapters.xds.server", "ALIKE", "such requests that are kept", "they are read again"),
    Bound("adapters.xds.accepted", "MANY", "resources in a response that its clients share", "below: kept by each"),
    Bound("adapters.xds.accepted", "LAYERS", "such responses for one client", "it keeps what it is told for itself"),
    Bound("adapters.xds.stream", "REASON", "what is kept of a client's refusal", "cut", unit="characters"),
    Bound(
        "bridge.migration.gates", "SCRAPES", "scrapes in a gate's window", "with fewer there is no look", key="scrape"
    ),
    Bound("bridge.migration.gates", "UNSEEN", "intervals that a gate's last look counts for", "then it has no data"),
    Bound("bridge.migration.parity", "NAMED", "values that a row of `parity` names", "the others are counted"),
    Bound("adapters.zookeeper.readers", "MOST", "sessions of a server in `readers`", "the others are counted"),
    Bound("bridge.daemon.overriding", "MOST", "overrides and drains by command", "refused when they are asked for"),
    Bound(
        "bridge.destination.note",
        "OVERRIDES",
        "overrides and drains at one destination",
        "refused when they are asked for",
        unit="bytes",
    ),
    Bound("bridge.daemon.undoing", "PROBES", "addresses that `undo` asks at a time", "the others wait"),
    Bound("bridge.override", "LONGEST", "what an override is of", "refused", unit="characters"),
    Bound("bridge.cli.overriding", "SHOWN", "instances that `set` and `drain` print", "`-o json` has all"),
    Bound("bridge.daemon.shipping", "STEP", "events handed to a log at once", "the others follow"),
    Bound("bridge.daemon.health", "CONNECTIONS", "connections to `listen`", "the oldest one is closed"),
    Bound("bridge.daemon.health", "LIFE", "time of one request to `listen`", "the connection is closed", unit="s"),
    Bound("bridge.daemon.health", "HEADERS", "one header of a request to `listen`", "answered with 400", unit="bytes"),
    Bound(
        "bridge.admin.server",
        "CONNECTIONS",
        "connections to the admin socket",
        "the one that is idle for longest is closed",
    ),
    Bound("bridge.admin.protocol", "LONGEST_CLAIM", "what `--by` says", "refused, exit 2", unit="characters"),
    Bound(
        "bridge.admin.server", "GROUPS", "groups of a process that asks", "its own group counts", unit="bytes, 4 each"
    ),
    Bound("bridge.daemon.permitted", "USERS", "users whose last refusal is remembered", "the oldest is forgotten"),
    Bound("bridge.sources.claims", "KEPT", "pairs of copies that were shared once", "the oldest are forgotten"),
    Bound("bridge.destination.destination", "TAKEN_KEPT", "removals by others that are told", "the newest are told"),
    Bound("mappings.kafka", "LONGEST", "one value of a topic", "parked", unit="bytes", metric="isthmus_link_parked"),
    Bound("bridge.daemon.commands", "LOGGED", "lines of the journal over the admin socket", "the newest are sent"),
    Bound("bridge.admin.server", "PATIENCE", "time to send an admin request", "the connection is closed", unit="s"),
    Bound("bridge.admin.protocol", "LONGEST", "one admin request", "refused, exit 2", unit="bytes"),
    Bound(
        "bridge.admin.protocol",
        "LONGEST_PATH",
        "path of the admin socket",
        "no socket: `socket-gone`",
        unit="bytes",
        metric="isthmus_attention",
        key="bridge.state",
    ),
    Bound(
        "bridge.daemon.descriptors",
        "WANTED",
        "file descriptors",
        "an eighth of what there are is for connections of others",
        key="LimitNOFILE",
    ),
    Bound("bridge.cli.streams", "REMEMBERED", "ids of events that `events` knows again", "the oldest are forgotten"),
    Bound("bridge.daemon.daemon", "THREADS", "threads that ask the disk and look names up", "the next ones wait"),
    Bound("bridge.daemon.logs", "TRACEBACK", "a traceback in the log", "cut", unit="characters"),
    Bound("bridge.daemon.logs", "OFTEN", "the same line of a library", "counted, not written", unit="in 60 s"),
    Bound("bridge.report.text", "LINE", "a field of a log line", "cut, with its length", unit="characters"),
    Bound("bridge.report.text", "CELL", "a cell of a table", "cut in the middle", unit="characters", key="-o json"),
    Bound(
        "bridge.cli.output",
        "LAST_CELL",
        "the last cell of a row",
        "cut in the middle",
        unit="characters",
        key="-o json",
    ),
    Bound(
        "bridge.report.unreadable",
        "READ",
        "unreadable services of which `check` reads the reasons",
        "`isthmus explain` has them",
    ),
    Bound(
        "adapters.etcd.client",
        "LARGEST",
        "one message of etcd, as a batch of a watch",
        "it is refused as an answer that did not come: back off, and list anew",
        unit="bytes",
    ),
    Bound(
        "adapters.kafka.producing",
        "LARGEST",
        "the value of one record of a stream's transaction",
        "an event goes without what makes it so large, and says why",
        unit="bytes",
    ),
    Bound(
        "bridge.daemon.tracing",
        "ROOM",
        "spans that wait for the collector",
        "dropped and counted",
        metric="isthmus_spans_dropped_total",
    ),
    Bound("bridge.daemon.tracing", "BATCH", "spans in one request to the collector", "the next request follows"),
    Bound("bridge.daemon.tracing", "KEPT", "changes whose trace may go on", "the oldest ends with what was told of it"),
    Bound("bridge.daemon.attention", "KEPT", "acknowledgements", "the oldest one is forgotten"),
    Bound("bridge.config.bounds", "VALUES", "values in the configuration, aliases written out", "the file is refused"),
    Bound("bridge.config.bounds", "DEPTH", "levels of the configuration", "the file is refused"),
    Bound("bridge.config.bounds", "BYTES", "the configuration", "the file is refused", unit="bytes"),
    Bound(
        "bridge.config.load",
        "KEYS",
        "keys of the file that hosts compare",
        "hosts say that files differ, and not by which key",
    ),
    Bound(
        "bridge.state.journal",
        "ROOM",
        "journal records that wait for the disk",
        "dropped and counted, a `gap` line",
        metric="isthmus_journal_dropped_total",
    ),
    Bound("bridge.state.journal", "REMOVALS", "removals that `status` shows", "`isthmus log` has all"),
    Bound("bridge.state.segments", "SEGMENT", "one file of the journal", "the next file begins", unit="bytes"),
    Bound(
        "bridge.state.journal",
        "ROOM_ON_DISK",
        "the journal",
        "the oldest file is removed; `journal-short`",
        unit="bytes",
        key="bridge.journal.room",
    ),
    Bound(
        "bridge.state.decisions",
        "REMEMBERED",
        "approvals, sets shown, stated losses, accepted lives, each",
        "the oldest is forgotten",
    ),
    Bound(
        "bridge.state.decisions",
        "ENDED",
        "freezes, overrides and drains known to have ended",
        "the oldest is forgotten: a host that has not heard of its end may bring it back",
    ),
    Bound("bridge.state.folder", "REMEMBERED", "owners known to be silent", "the oldest is forgotten"),
    Bound(
        "bridge.destination.note",
        "LIMIT",
        "a note for standbys",
        "approvals and losses give way, a freeze is refused",
        unit="bytes",
    ),
    Bound(
        "bridge.shards",
        "LONGEST_NOTE",
        "a note of a shard",
        "losses of services, then minutes give way; in the end all others hold what loses",
        unit="bytes",
    ),
    Bound(
        "bridge.destination.note",
        "KEPT",
        "decisions of a kind that may give way, in a note",
        "the oldest stay on their host",
    ),
    Bound(
        "bridge.destination.note", "MEMBERS", "hosts that `members` knows", "who was silent for longest is forgotten"
    ),
    Bound("bridge.destination.standby", "ACTS", "acts of operators that standbys log", "the oldest are left out"),
    Bound(
        "bridge.destination.handover",
        "SERVICES",
        "services whose losses standbys are told",
        "those that lost most are told",
    ),
    Bound(
        "bridge.guard.pace",
        "KEPT",
        "instances whose writes are counted against flapping",
        "those that were quiet are forgotten",
    ),
    Bound(
        "bridge.guard.pace", "FREE_WRITES", "writes of one instance in a row", "then the newest value, once a second"
    ),
    Bound("bridge.sources.view", "EVENTS_KEPT", "deletions remembered as events", "count as absences"),
    Bound(
        "bridge.sources.store",
        "GONE_KEPT",
        "services remembered after they went",
        "who is further behind looks at everything",
    ),
    Bound("bridge.sources.feed", "FREE_LISTS", "free listings of a flapping source", "then one in 10 s"),
    Bound("adapters.zookeeper.source", "FREE_LISTS", "lists that a flapping ZooKeeper may cause", "then one in 10 s"),
    Bound("bridge.retry", "LONGEST_DELAY", "delay between retries", "none is longer", unit="s"),
    Bound("bridge.retry", "DENIED_DELAY", "delay where a right is missing", "none is longer", unit="s"),
    Bound(
        "adapters.common.assembly",
        "REASONS",
        "unreadable records of a registry whose reasons are kept",
        "counted; `isthmus explain` has the reason",
        metric="isthmus_scope_ignored",
    ),
    Bound(
        "adapters.common.disk",
        "PATIENCE",
        "time of a disk for a password, token or certificate",
        "the registry is out of reach",
        unit="s",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.common.http",
        "LARGEST",
        "one answer over HTTP",
        "cut off: the registry is stale",
        unit="bytes",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.common.http",
        "LONGEST",
        "one line of a stream over HTTP",
        "cut off: the registry is stale",
        unit="bytes",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.file.folder",
        "LIMIT",
        "one file of a `file` registry",
        "unreadable, and none larger is written",
        unit="bytes",
        metric="isthmus_scope_ignored",
    ),
    Bound("adapters.file.view", "SHOWN", "faults of one file that are told", "the rest is counted"),
    Bound(
        "adapters.file.disk",
        "PATIENCE",
        "time of a disk to look at a folder",
        "the registry is stale",
        unit="s",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "mappings.file", "DEPTH", "levels of a file of a `file` registry", "unreadable", metric="isthmus_scope_ignored"
    ),
    Bound(
        "adapters.etcd.txn",
        "BYTES",
        "one etcd transaction",
        "a larger entry is parked",
        unit="bytes",
        metric="isthmus_link_parked",
    ),
    Bound(
        "adapters.etcd.watching",
        "HEARD",
        "positions by which the delay of a watch is measured",
        "it is measured by the older ones",
        metric="isthmus_scope_behind_seconds",
    ),
    Bound(
        "adapters.etcd.sink", "REMEMBERED", "own transactions told from those of others", "a service is read once more"
    ),
    Bound("adapters.consul.nodes", "ROOM", "copies on one node of Consul's", "another node is made"),
    Bound(
        "adapters.consul.txn",
        "BYTES",
        "one transaction of Consul",
        "a larger entry is parked",
        unit="bytes",
        metric="isthmus_link_parked",
    ),
    Bound("bridge.destination.went", "KEPT", "entries that a daemon tells others it let go", "the oldest is not told"),
    Bound(
        "bridge.destination.exchange",
        "LONGEST",
        "what grows in a daemon's note: losses or held sets, and removals",
        "the rest is not told; a larger held set is approved at that daemon",
        unit="bytes",
    ),
    Bound("bridge.destination.exchange", "WENT", "removals in it", "the oldest are not told", unit="bytes"),
    Bound(
        "bridge.destination.exchange", "PARTS", "parts of a picture told by service at a time", "the next ones follow"
    ),
    Bound("bridge.destination.exchange", "SERVICES", "services told of such a part", "the first by name are told"),
    Bound("bridge.destination.likeness", "PARTS", "parts of a picture with a digest each", "they get larger"),
    Bound("bridge.daemon.seeding", "LARGEST", "a seed, unpacked", "refused", unit="bytes"),
    Bound("adapters.xds.server", "SHOWN", "names in one line about an export", "the rest is counted"),
    Bound("adapters.xds.server", "NAME", "what a data plane says of itself", "cut off", unit="characters"),
    Bound("adapters.xds.resources", "VIEWS", "networks and localities of data planes", "one more is refused"),
    Bound("adapters.common.seat", "LONGEST", "a note by key", "refused", unit="bytes"),
    Bound("adapters.consul.seat", "LONGEST", "a note in Consul", "refused", unit="bytes"),
    Bound(
        "adapters.consul.watching",
        "PATIENT",
        "refusals of an agent in a row",
        "the datacenter is stale",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.eureka.working_copy",
        "RECENT",
        "removed instances that a second opinion asks for",
        "the oldest are forgotten",
    ),
    Bound("adapters.kubernetes.packing", "MOST_ENDPOINTS", "endpoints in one slice", "another slice is made"),
    Bound("adapters.nginx.apply", "LARGEST", "a file that `isthmus-nginx` takes over", "refused", unit="bytes"),
    Bound("mappings.istio", "MOST_ENDPOINTS", "endpoints in one ServiceEntry", "parked until one goes"),
    Bound("adapters.kubernetes.seat", "LONGEST_NOTE", "a note in Kubernetes", "refused", unit="bytes"),
    Bound(
        "adapters.kubernetes.writing",
        "REMEMBERED",
        "own writes told from those of others",
        "a service is read once more",
    ),
    Bound(
        "mappings.common.slice_entry",
        "MOST_BYTES",
        "what one slice says of its entries",
        "a larger entry is parked",
        unit="bytes",
        metric="isthmus_link_parked",
    ),
    Bound(
        "mappings.common.slice_entry",
        "LONGEST_ID",
        "an id in Kubernetes",
        "parked",
        unit="characters",
        metric="isthmus_link_parked",
    ),
    Bound(
        "adapters.etcd.client",
        "LARGEST",
        "one answer of etcd",
        "refused: the scope is stale",
        unit="bytes",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.zookeeper.connection",
        "ANSWER_LIMIT",
        "one answer of ZooKeeper",
        "the connection ends",
        unit="bytes",
        metric="isthmus_scope_synced",
    ),
    Bound(
        "adapters.zookeeper.txn",
        "BYTES",
        "one ZooKeeper transaction",
        "a larger entry is parked",
        unit="bytes",
        metric="isthmus_link_parked",
    ),
    Bound(
        "bridge.daemon.moving",
        "FRESH",
        "names of a place that `migrate status` reads anew at a host that stands by",
        "of the others it tells what it read last",
    ),
    Bound("bridge.daemon.moving", "TRIES", "tries to change the record of migrations", "the command says so"),
    Bound(
        "bridge.migration.intent",
        "LIMIT",
        "the record of migrations",
        "no further move begins: `isthmus migrate forget` those that are done",
        unit="bytes",
    ),
    Bound(
        "bridge.migration.intent",
        "BACK",
        "moves of a migration that go back within an hour",
        "no further one of it begins before that is over",
    ),
    Bound("bridge.state.before", "MOST", "instances that are kept of before a link's first write", "`diff` says so"),
    Bound("bridge.migration.reports", "MOST", "reports of `probe` that are kept", "refused; each is kept for a day"),
    Bound("bridge.daemon.reporting", "TRIES", "tries to keep a report", "the command says so"),
    Bound("bridge.migration.quiet", "PEERS", "addresses that a watched port names of its clients", "left out"),
    Bound("bridge.migration.natives", "PARTS", "batches of natives at a place", "larger places have larger batches"),
    Bound("bridge.migration.gates", "SCRAPES", "scrapes in a window", "with fewer a gate is not looked at"),
    Bound("bridge.migration.gates", "UNSEEN", "intervals without a look at a gate", "it has no data"),
    Bound("bridge.migration.parity", "NAMED", "values that a difference names", "the others are counted"),
)
