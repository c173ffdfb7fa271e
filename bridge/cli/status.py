"""The commands that show what a daemon does and did."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bridge.admin.client import call
from bridge.cli.file import socket
from bridge.cli.output import (
    ATTENTION,
    BY,
    FILE,
    OK,
    OUTPUT,
    Row,
    clock_time,
    command,
    duration,
    gap,
    print_approved,
    print_json,
    print_table,
    say,
    span,
    timed,
)
from bridge.destination.standby import STALE
from bridge.state import folder as state

PATIENCE = 5.0  # seconds that a daemon may take for its status: one that takes longer is stopped, or in trouble
EVERY = 2.0  # seconds between two looks of --watch


@command("status", "isthmus status", "0 well, or only notes; 3 act on it; 1 no daemon; 2 wrong usage or file")
@FILE
@OUTPUT
@click.option("--watch", is_flag=True, help="Again every two seconds, until Ctrl-C.")
def status(file: Path | None, output: str, watch: bool) -> int:
    """Shows the running daemon on one screen. Its last lines say what needs a look."""
    path = socket(file)
    while watch:
        try:
            now = call(path, "status", within=PATIENCE)
            click.clear()
            _print_status(now, output)
            time.sleep(EVERY)
        except KeyboardInterrupt:
            return OK
    now = call(path, "status", within=PATIENCE)
    _print_status(now, output)
    return ATTENTION if any(row["level"] == "act" for row in now["attention"]) else OK


def _print_status(now: Row, output: str) -> None:
    if output == "json":
        print_json(now)
        return
    say(
        f"{now['bridge']}  isthmus {now['version']} on {now['host']}, pid {now['pid']}, up "
        f"{span(time.time() - now['started'])}, configuration {now['configuration']}"
    )
    gap()
    print_table(
        now["scopes"],
        ("registry", "scope", "state", "age", "services", "instances", "doubt", "reason"),
        more=("revision", "identity"),
    )
    for name, scopes in now["unnamed"].items():
        say(f"{name} also has {', '.join(scopes)}, which the file does not name: not read")
    gap()
    withdrawn = ("withdrawn",) if any(row["withdrawn"] for row in now["links"]) else ()
    print_table(
        [{**row, "role": _role(row)} for row in now["links"]],
        ("link", "policy", "role", "lag", "waiting", "held", "parked", "shadowed", *withdrawn, "frozen", "reason"),
        more=("from", "to"),
    )
    _print_roles(now["links"])
    _print_decisions(now)
    if now["last_removals"]:
        gap()
        say("last removals")
        print_table(timed(now["last_removals"]), ("at", "link", "service", "instance", "cause"))
    for row in now["attention"]:
        _print_attention(row)
    for row in now["acknowledged"]:
        ack = row["acknowledged"]
        say(f"known: {row['code']} {row['subject']}: {ack['reason']} (by {ack['by']}, {_until(ack['until'])})")


def _role(row: Row) -> str:
    """Of a member of a group with how many shards it writes, of how many there are."""
    shards = row.get("shards")
    return row["role"] if shards is None else f"{row['role']} {shards['writes']}/{shards['of']}"


def _print_roles(links: list[Row]) -> None:
    """Who writes where this process stands by, and where entries end without a bridge."""
    for to, writer in {row["to"]: row["writer"] for row in links if row["role"] == "standby"}.items():
        gap()
        say(f"{to}: {_writer(writer)}")
    for to, renewal in {row["to"]: row["renewal"] for row in links if row["renewal"] is not None}.items():
        if renewal["ends"] is not None:
            gap()
            say(f"{to}: {renewal['entries']} entries are renewed; without a bridge they end in {span(renewal['ends'])}")


def _print_decisions(now: Row) -> None:
    """What operators decided: freezes, approvals, and losses that are expected."""
    for link, freeze in now["freezes"].items():
        name = "--all" if link == state.EVERY_LINK else link
        gap()
        say(f"frozen {name}: {freeze['reason']} (by {freeze['by']}, {_until(freeze['until'])})")
    for row in now["approved"]:
        gap()
        print_approved(row)
    for row in now["overrides"]:
        gap()
        where = f" at {row['at']}" if row["at"] else ""
        who = f" (by {row['by']}, {_until(row['until'])})" if row["by"] else " (in the file)"
        say(f"{row['kind']} {row['of']}{where}: {row['says']}, of {row['matches']} instances: {row['reason']}{who}")
    for row in now["expected"]:
        gap()
        say(f"{row['subject']} may lose {row['left']} more: {row['reason']} (by {row['by']}, {_until(row['until'])})")


def _print_attention(row: Row) -> None:
    many = f", {row['count']}" if row["count"] > 1 else ""
    lasting = span(time.time() - row["since"])
    gap()
    say(
        f"{row['level']}: {row['code']} {row['subject']} ({lasting}{many}): {row['text']}",
        colour="red" if row["level"] == "act" else "yellow",
    )
    say(f"  look: {row['look']}   mend: {row['mend']}   see {row['runbook']}")


def _until(at: float | None) -> str:
    return "until `unfreeze`" if at is None else f"until {clock_time(at)}"


@command("members", "isthmus members", "0, 1 no daemon, 2 wrong usage or file")
@FILE
@OUTPUT
def members(file: Path | None, output: str) -> int:
    """Lists the hosts of this bridge. At each destination: role, host, since, file, and when it was heard of last."""
    now = call(socket(file), "status", within=PATIENCE)
    rows = _members(now)
    if output == "json":
        print_json(rows)
    else:
        timely = [{**row, "since": clock_time(row["since"]), "seen": _seen(row)} for row in rows]
        print_table(timely, ("to", "role", "host", "pid", "since", "file", "seen"), more=("folder",))
    return OK


def _members(now: Row) -> list[Row]:
    """This daemon and, at each destination, all others that the note beside the lock names.

    `seen`: seconds since the epoch; None where it runs for sure: it answers, or has the lock.
    """
    rows = []
    for to, row in {row["to"]: row for row in now["links"]}.items():
        this = {"host": now["host"], "pid": now["pid"], "since": now["started"], "file": now["configuration"]}
        rows.append({"to": to, "role": row["role"], **this, "folder": now["folder"], "seen": None, "here": True})
        if row["role"] == "standby" and row["writer"] is not None:
            rows.append({"to": to, "role": "writer", **_process(row["writer"]), "seen": None, "here": False})
        rows += [
            {"to": to, "role": one["role"], **_process(one), "seen": one["seen"], "here": False}
            for one in row["members"]
        ]
    return rows


def _process(row: Row) -> Row:
    return {**{key: row[key] for key in ("host", "pid", "since", "folder")}, "file": row["configuration"]}


def _seen(row: Row) -> str:
    if row["here"]:
        return "here"
    if row["seen"] is None:
        return "has the lock"
    ago = time.time() - row["seen"]
    return f"{span(ago)} ago" + (", stale: it may have ended" if row["role"] == "standby" and ago > STALE else "")


@command(
    "ack",
    "isthmus ack instances-parked inventory-to-core --for 7d --reason 'known, TICKET-7'",
    "0, 1 no daemon, or there is no such trouble, 2 wrong usage or file",
)
@FILE
@click.argument("code")
@click.argument("subject")
@click.option("--for", "lasting", default="7d", show_default=True, help="So long, or until there is more of it.")
@click.option("--reason", required=True, help="Kept in the journal, and shown by `status`.")
@BY
@OUTPUT
def ack(file: Path | None, code: str, subject: str, lasting: str, reason: str, by: str | None, output: str) -> int:
    """Silences one trouble of `status`, until it grows. Its line says the code and the subject."""
    row = call(socket(file), "ack", by=by, code=code, subject=subject, lasting=duration(lasting), reason=reason)
    if output == "json":
        print_json(row)
    else:
        say(f"silent until {clock_time(row['until'])}, or until there are more than {row['count']}")
    return OK


def _writer(writer: Row | None) -> str:
    if writer is None:
        return "this daemon stands by, and nobody has said yet who writes"
    since = clock_time(writer["since"])
    return f"{writer['host']} writes, pid {writer['pid']}, since {since}, configuration {writer['configuration']}"
