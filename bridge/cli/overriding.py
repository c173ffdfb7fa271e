"""The commands that say something of instances in the place of their source, without a release."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bridge.admin.client import call
from bridge.cli.file import socket
from bridge.cli.output import (
    ATTENTION,
    BY,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    clock_time,
    command,
    duration,
    fail,
    print_json,
    print_table,
    say,
    span,
    warned_of,
)

ANSWERS = 30.0  # seconds that a daemon has: it waits for the disk and for the writers of all destinations
SHOWN = 20  # instances that a table has
EVERY = 0.5  # seconds between two looks of --wait
ENDLESS = "ever"

OF = click.argument("of", metavar="SERVICE[@REGISTRY][/INSTANCE]")
AT = click.option("--at", metavar="DESTINATION", help="There alone; else wherever links lead.")
FOR = click.option("--for", "lasting", default="24h", show_default=True, help="So long, e.g. 2h; or `ever`.")
REASON = click.option("--reason", required=True, help="Kept in the journal, and shown by `explain`.")
LAST = click.option("--including-last", is_flag=True, help="Also where nothing of the service would serve any more.")
EXITS = "0, 1 no daemon, of nothing, or refused, 2 wrong usage or file, 3 this host only, or a writer does not follow"


@command(
    "set", "isthmus set pay@core weight=0.2 metadata.env=canary --for 2h --reason 'half the CPUs, CHG-1234'", EXITS
)
@FILE
@OF
@click.argument("says", metavar="FIELD=VALUE...", nargs=-1, required=True)
@AT
@FOR
@REASON
@LAST
@BY
@OUTPUT
def set_(
    file: Path | None,
    of: str,
    says: tuple[str, ...],
    at: str | None,
    lasting: str,
    reason: str,
    including_last: bool,
    by: str | None,
    output: str,
) -> int:
    """Changes what is written of instances. Said: weight, zone, health (DRAINING or UNHEALTHY), metadata.KEY.

    It changes what is written to destinations and served by exports, never a source.
    """
    about = {"of": of, "at": at, "lasting": _lasting(lasting), "reason": reason, "including_last": including_last}
    done = call(socket(file), "set", within=ANSWERS, by=by, says=_fields(says), **about)
    return _said(done, output)


@command(
    "unset", "isthmus unset pay@core", "0, 1 no daemon, or nothing is said of it by command, 2 wrong usage, 3 as `set`"
)
@FILE
@OF
@AT
@click.option("--reason", default="", help="Kept in the journal.")
@BY
@OUTPUT
def unset(file: Path | None, of: str, at: str | None, reason: str, by: str | None, output: str) -> int:
    """Takes back what `set` and `drain` said. What the source says is written again, under the guard."""
    done = call(socket(file), "unset", within=ANSWERS, by=by, of=of, at=at, reason=reason)
    if output == "json":
        print_json(done)
    else:
        for row in done["ended"]:
            say(f"unset: {row['of']}{row['at'] and ' at '}{row['at']}: {row['says']}")
    return _told(done)


@command("overrides", "isthmus overrides", "0, 1 no daemon, 2 wrong usage or file")
@FILE
@OUTPUT
def overrides(file: Path | None, output: str) -> int:
    """Lists what is said in the place of sources. By command, by drains, and by the file."""
    rows = call(socket(file), "overrides")
    if output == "json":
        print_json(rows)
    else:
        cells = [{**row, "until": _until(row)} for row in rows]
        print_table(
            cells,
            ("kind", "of", "at", "says", "matches", "pending", "held", "until", "reason"),
            "nothing is said in the place of a source",
            more=("by",),
        )
    return OK


@command(
    "drain",
    "isthmus drain pay@core/10.0.0.7:8080 --wait --reason 'new kernel, CHG-1234'",
    "0 drained (with --wait: nobody calls it any more), 1 no daemon, of nothing, or refused, 2 wrong usage or file, "
    "3 this host only, a writer does not follow, the guard holds it, or consumers must be restarted",
)
@FILE
@OF
@AT
@FOR
@REASON
@LAST
@click.option("--wait", is_flag=True, help="Return when the slowest consumer follows, and its longest request is over.")
@click.option("--longest", default="30s", show_default=True, help="The longest request that was begun before.")
@click.option("--consumers", help="Only these kinds read it, e.g. `spring,envoy`; else all that can.")
@BY
@OUTPUT
def drain(
    file: Path | None,
    of: str,
    at: str | None,
    lasting: str,
    reason: str,
    including_last: bool,
    wait: bool,
    longest: str,
    consumers: str | None,
    by: str | None,
    output: str,
) -> int:
    """Takes traffic off instances. DRAINING where that can be shown, and withdrawn where it cannot, until `unset`."""
    path = socket(file)
    about = {"of": of, "at": at, "lasting": _lasting(lasting), "reason": reason, "including_last": including_last}
    kinds = [kind.strip().lower() for kind in (consumers or "").split(",") if kind.strip()]
    done = call(path, "drain", within=ANSWERS, by=by, consumers=kinds, longest=duration(longest), **about)
    code = _said(done, output)
    settles = done["settles"]
    if output != "json":
        by_whom = f", which {settles['slowest']} takes" if settles["slowest"] else ""
        say(f"nobody calls it {span(settles['seconds'])} after it is written{by_whom}")
    for name in settles["restart"]:
        say(f"restart: {name} never follows by itself", err=True)
    if done["destinations"] and all(row["observes"] for row in done["destinations"]):
        return code  # nothing is written, so there is nothing to wait for
    if wait and (held := _wait(path, done, settles["seconds"])):
        say(f"the guard holds {held} of it: see `isthmus holds`", err=True)
        return ATTENTION
    if wait and output != "json":
        say(f"drained: {of}")
    return ATTENTION if settles["restart"] else code


def _wait(path: Path, done: Row, seconds: float) -> int:
    """Waits until all of it is written, and then so long; how many the guard holds, which nothing is to wait for."""
    written: float | None = None
    while written is None or time.monotonic() < written + seconds:
        rows = call(path, "overrides", within=ANSWERS)
        mine = next((row for row in rows if all(row[key] == done[key] for key in ("kind", "of", "at"))), None)
        if mine is None:
            fail(f"{done['of']} is not drained any more: it was taken back, or its time is over", FAILED)
        if mine["held"]:
            return int(mine["held"])
        if mine["pending"]:
            written = None
        elif written is None:
            written = time.monotonic()
        time.sleep(EVERY)
    return 0


def _fields(says: tuple[str, ...]) -> Row:
    """FIELD=VALUE, as the daemon takes it; a fault is one of usage."""
    found: Row = {}
    for one in says:
        field, equals, text = one.partition("=")
        if field.startswith("metadata.") and field != "metadata." and equals:
            found.setdefault("metadata", {})[field.removeprefix("metadata.")] = text
        elif field in ("weight", "zone", "health") and equals:
            found[field] = text.upper() if field == "health" else text
        else:
            raise click.BadParameter(f"{one!r}: write weight=, zone=, health= or metadata.KEY=")
    return found


def _lasting(text: str) -> float | None:
    return None if text == ENDLESS else duration(text)


def _until(row: Row) -> str:
    if row["kind"] == "file":
        return "in the file"
    return "unset" if row["until"] is None else clock_time(row["until"])


def _said(done: Row, output: str) -> int:
    """Shows what was said, what it is of, and what becomes of it."""
    if output == "json":
        print_json(done)
        return _told(done)
    place = f" at {done['at']}" if done["at"] else ""
    until = "until it is unset" if done["until"] is None else f"until {clock_time(done['until'])}"
    say(f"{done['of']}{place}: {done['says']}, {until}; of {done['matches']} instances")
    cells = [{**row, "not_written": ",".join(row["lost"]) or None} for row in done["effects"][:SHOWN]]
    print_table(cells, ("registry", "service", "instance", "to", "what", "serves", "not_written", "why"))
    if len(done["effects"]) > SHOWN:
        say(f"and {len(done['effects']) - SHOWN} more; -o json has all")
    return _told(done)


def _told(done: Row) -> int:
    """Says where it is not followed; the exit code."""
    if done["unsaved"]:
        say(f"it counts, and is not on the disk: {done['unsaved']}", err=True)
    unfollowed = [row["why"] for row in done["destinations"] if not row["followed"]]
    for why in unfollowed:
        say(f"not followed: {why}", err=True)
    code = warned_of(done["destinations"])
    return ATTENTION if unfollowed else code
