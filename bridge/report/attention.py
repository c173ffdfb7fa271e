"""What an operator should know: each kind of trouble has a code, a level, and the commands to look and to mend."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator, Sequence
from math import inf
from typing import NamedTuple

import msgspec

from bridge.adapter import Concerned, Credential, Credentialed, Registry
from bridge.destination.leading import Share
from bridge.destination.likeness import DIFFERENT
from bridge.engine.engine import Engine
from bridge.report.status import link_rows, scope_rows
from bridge.report.values import Row

BEHIND = 10.0  # seconds that a watch may be behind its store before somebody should look
ROUNDS = 3  # intervals that a round of heartbeats may be late before somebody should look
DAY = 86_400.0
SOON = 14 * DAY  # seconds before its end that a credential should be renewed
CARED = 30.0  # seconds that removals of a shard may wait for somebody to claim it
LAG = 60.0  # seconds that a change may wait to be written before somebody should look
RUNBOOK = "docs/operations.md"


class Level(enum.StrEnum):
    """ACT: traffic is or will be wrong, or writes stand still (`status` exits 3). NOTE: worth knowing (it exits 0)."""

    ACT = "act"
    NOTE = "note"


class Kind(NamedTuple):
    """One kind of trouble. `look`, `mend`: commands, with {subject} in the place of what it is about."""

    level: Level
    look: str
    mend: str


# By code, which is stable: alerts, headings of docs/operations.md and `ack` name it. A test holds the three equal.
KINDS = {
    "source-stale": Kind(Level.ACT, "isthmus check", "make the registry reachable again; its copies stay meanwhile"),
    "source-behind": Kind(Level.ACT, "isthmus status", "relieve the registry; its watch catches up by itself"),
    "source-doubted": Kind(Level.ACT, "isthmus holds", "isthmus accept {subject} --reason R, if it is the true one"),
    "target-unavailable": Kind(Level.ACT, "isthmus check", "make the registry reachable and writable for this bridge"),
    "heartbeats-late": Kind(Level.ACT, "isthmus check", "make {subject} reachable, or give this host more time"),
    "link-behind": Kind(Level.ACT, "isthmus plan --running", "see why the target does not take writes"),
    "changes-held": Kind(Level.ACT, "isthmus holds", "isthmus approve ID --reason R; or repair the source"),
    "addresses-reused": Kind(Level.NOTE, "isthmus log", "nothing, if the new owner is right; else check the networks"),
    "instances-parked": Kind(Level.ACT, "isthmus plan", "change what the reason names, at the source"),
    "link-frozen": Kind(Level.ACT, "isthmus status", "isthmus unfreeze {subject}"),
    "freezes-unreadable": Kind(Level.ACT, "isthmus status", "isthmus unfreeze --all, or repair the file"),
    "file-refused": Kind(Level.ACT, "isthmus check", "repair the file, then: systemctl reload isthmus"),
    "loop-broken": Kind(Level.ACT, "journalctl -u isthmus", "systemctl restart isthmus; and report it"),
    "state-unwritable": Kind(
        Level.ACT, "df {subject}; ls -ld {subject}", "make room, or give the folder back to its user"
    ),
    "journal-unwritable": Kind(
        Level.ACT, "df {subject}; ls -ld {subject}", "make room, or give the folder back to its user"
    ),
    "state-gone": Kind(Level.ACT, "ls -ld {subject}", "make its parent folder writable; it is made again by itself"),
    "socket-gone": Kind(Level.ACT, "journalctl -u isthmus", "end who serves it, or choose a shorter bridge.state"),
    "export-waits": Kind(
        Level.ACT, "isthmus status", "make it reachable; or isthmus accept NAME --as-empty --reason R"
    ),
    "export-unkept": Kind(Level.ACT, "df STATE; ls -ld STATE", "make room, or give the folder back to its user"),
    "pictures-differ": Kind(Level.ACT, "isthmus explain SERVICE", "see on both hosts what holds the difference"),
    "client-refuses": Kind(Level.ACT, "isthmus clients {subject}", "change what the reason names, at the source"),
    "host-doubted": Kind(Level.ACT, "isthmus check", "mend this host or its network; it turns nothing meanwhile"),
    "check-unproven": Kind(Level.NOTE, "isthmus check", "have one instance of each version answer the check"),
    "group-undivided": Kind(
        Level.ACT, "isthmus group", "stop all its daemons, isthmus group init {subject}, start them"
    ),
    "group-left": Kind(Level.ACT, "isthmus group", "change what the reason names; others write its shards meanwhile"),
    "shards-cared": Kind(Level.ACT, "isthmus group", "make the stream reachable, or start a member that can read it"),
    "credential-ends": Kind(Level.NOTE, "isthmus check", "renew it in its place: it is read again without a restart"),
    "polls-lowered": Kind(Level.NOTE, "isthmus check", "raise http_max_conns_per_client, or name a second agent"),
    "entries-taken": Kind(Level.NOTE, "isthmus log", "keep the tool that removes them away from what is ours"),
    "journal-gap": Kind(Level.NOTE, "isthmus log", "nothing: the records are lost; see that the disk keeps up"),
    "journal-short": Kind(Level.NOTE, "isthmus log", "give bridge.journal more room, or say that it keeps less"),
    "log-unshipped": Kind(Level.ACT, "isthmus check", "change what the reason names; what waits is shipped then"),
    "file-differs": Kind(Level.NOTE, "isthmus members", "put the same file on every host, the standbys first"),
    "override-lasting": Kind(
        Level.NOTE, "isthmus overrides", "write it into the file, or isthmus unset {subject} when it is no longer meant"
    ),
    "override-ends": Kind(Level.NOTE, "isthmus overrides", "nothing, if it is to end; else set it again"),
    "migration-failed": Kind(
        Level.ACT, "isthmus migrate status {subject}", "see what the gate saw; the way back needs the old side healthy"
    ),
    "migration-waits": Kind(Level.NOTE, "isthmus migrate status {subject}", "isthmus migrate next {subject}"),
    "migration-no-data": Kind(
        Level.ACT, "isthmus migrate status {subject}", "mend the query or Prometheus; or next --without GATE --reason R"
    ),
    "migration-off": Kind(
        Level.NOTE, "isthmus migrate plan {subject}", "look for consumers that do not follow; isthmus migrate back"
    ),
    "migration-closing": Kind(
        Level.NOTE,
        "isthmus migrate status {subject}",
        "nothing, if all is well; else migrate reopen, rollback",
    ),
    "native-returned": Kind(
        Level.ACT,
        "isthmus migrate status {subject}",
        "see who starts it, or overrides it; it is taken out again by itself",
    ),
    "migration-differs": Kind(
        Level.NOTE,
        "isthmus migrate plan {subject}",
        "isthmus migrate pause {subject}, then apply; or put the block back",
    ),
    "records-unreadable": Kind(Level.ACT, "isthmus check", "repair the records; isthmus explain SERVICE shows each"),
}


class Finding(msgspec.Struct, frozen=True):
    """One trouble: the code and what it is about identify it; `count` is how much of it there is."""

    code: str
    subject: str
    text: str
    count: int = 1


def findings(engine: Engine) -> Iterator[Finding]:
    """What the engine itself knows; the daemon adds what it knows of the disk, the file and its loops."""
    now, wall = engine.clock(), time.time()
    for row in scope_rows(engine, now):
        yield from _of_scope(row)
    for name, registry in engine.registries.items():
        yield from _of_registry(name, registry, wall)
    for row in link_rows(engine):
        yield from _of_link(row, engine.configuration.hash)
    for name, one in engine.reconcilers.items():
        yield from _of_share(name, one.lead.share)
        for host, services in one.peers.unlike.items() if one.peers is not None else ():
            what = few(services) if services else "some services"
            text = f"{host} has served something else for over {DIFFERENT:.0f} s: {what}"
            yield Finding("pictures-differ", name, text, max(1, len(services)))


def _of_share(name: str, share: Share | None) -> Iterator[Finding]:
    """What is wrong with this process as a member of a group."""
    if share is None:
        return
    if share.fault:
        yield Finding("group-undivided" if share.undivided else "group-left", name, share.fault)
    if share.cared > CARED:
        text = f"{len(share.cares)} shards are held for {share.cared:.0f} s whose removals wait: nobody claims them"
        yield Finding("shards-cared", name, text, max(1, len(share.cares)))


def _of_registry(name: str, registry: Registry, wall: float) -> Iterator[Finding]:
    for each in registry.credentials() if isinstance(registry, Credentialed) else ():
        if ends_soon(each, wall):
            left = f"ends in {(each.ends - wall) / DAY:.1f} days" if each.ends > wall else "has ended"
            yield Finding("credential-ends", f"{name}: {each.what}", f"{each.what} {left}")
    for concern in registry.concerns() if isinstance(registry, Concerned) else ():
        yield Finding(concern.code, name, concern.text)


def ends_soon(credential: Credential, wall: float) -> bool:
    """Whether somebody should look. One that lives for a short time is renewed by a tool, before its last tenth."""
    life = credential.ends - credential.begins if credential.begins is not None else inf
    return credential.ends - wall < (SOON if life >= 2 * SOON else life / 10)


def _of_scope(row: Row) -> Iterator[Finding]:
    subject = f"{row['registry']}/{row['scope']}" if row["scope"] else row["registry"]
    if row["doubt"]:
        yield Finding("source-doubted", subject, row["doubt"])
    elif row["state"] != "synced":
        yield Finding("source-stale", subject, row["reason"] or "it has not been reached yet")
    if row["behind"] > BEHIND:
        far = f", {row['behind_revisions']:,} revisions" if row["behind_revisions"] else ""
        yield Finding("source-behind", subject, f"its watch is behind its store for {row['behind']:.0f} s{far}")
    if row["unreadable"]:
        records = "a record" if row["unreadable"] == 1 else f"{row['unreadable']:,} records"
        yield Finding("records-unreadable", subject, f"{records} cannot be read", row["unreadable"])


def _of_link(row: Row, configuration: str) -> Iterator[Finding]:
    link = row["link"]
    if row["role"] == "observing":  # nothing is written there, so nobody misses anything: `plan` says what would be
        return
    if row["held"]:
        yield Finding("changes-held", link, f"{row['held']} removals held by the guard", row["held"])
    if row["reused"]:
        text = f"{row['reused']} withdrawn of late: they are out of reach, and their addresses serve elsewhere now"
        yield Finding("addresses-reused", link, text, row["reused"])
    if row["parked"]:
        yield Finding("instances-parked", link, f"{row['parked']} parked: they cannot be written", row["parked"])
    if row["taken"]:
        said = f"{len(row['taken'])} entries were removed by somebody else of late, and are written again"
        yield Finding("entries-taken", link, f"{said}: {few(row['taken'])}", len(row["taken"]))
    if row["frozen"]:
        yield Finding("link-frozen", link, "frozen: nothing is written")
    if row["lag"] > LAG and not row["reason"]:
        yield Finding("link-behind", link, f"a change has waited for {row['lag']:.0f} s to be written")
    renewal = row["renewal"]
    if renewal is not None and renewal["late"] > ROUNDS * renewal["every"]:
        end = f", and end {renewal['ends']:.0f} s after their last one" if renewal["ends"] is not None else ""
        text = f"the heartbeats of {renewal['entries']} entries are {renewal['late']:.0f} s late{end}"
        yield Finding("heartbeats-late", row["to"], text)
    if row["differs"]:
        theirs = f"the writer's on {row['writer']['host']} is {row['writer']['configuration']}"
        keys = f"; {few(row['differing'])} differ" if row["differing"] else ""
        yield Finding("file-differs", link, f"this file is {configuration}, {theirs}{keys}")
    runs = [one for one in row["members"] if one["role"] in ("standby", "serving", "member")]
    others = [one for one in runs if one["configuration"] != configuration]
    if row["role"] == "writer" and others:
        said = few([f"{one['host']} is {one['configuration']}" for one in others])
        whose = "the standby's" if others[0]["role"] == "standby" else "that"
        yield Finding("file-differs", link, f"this file is {configuration}, {whose} on {said}", len(others))
    if row["reason"]:
        yield Finding("target-unavailable", row["to"], row["reason"])


def few(names: Sequence[str], most: int = 5) -> str:
    """The first few of many, for one line."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def attention_row(finding: Finding, since: float) -> Row:
    """A finding as people and runbooks get it; `since` in seconds since the epoch."""
    kind = KINDS[finding.code]
    return {
        "level": str(kind.level),
        "code": finding.code,
        "subject": finding.subject,
        "text": finding.text,
        "since": since,
        "count": finding.count,
        "look": kind.look.format(subject=finding.subject),
        "mend": kind.mend.format(subject=finding.subject),
        "runbook": f"{RUNBOOK}#{finding.code}",
    }
