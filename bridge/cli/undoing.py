"""The command that puts back what a link changed of late."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.admin.client import call
from bridge.cli.file import socket
from bridge.cli.output import BY, FAILED, FILE, OK, OUTPUT, change_of, command, moment, print_json, print_table, say

ANSWERS = 60.0  # seconds that a daemon has: it asks addresses whether they answer


@command(
    "undo",
    "isthmus undo core-to-mesh --since 15m --reason 'wrong rename, CHG-1234'",
    "0, 1 no daemon, not confirmed, or something could not be written, 2 wrong usage or file, 4 not permitted",
)
@FILE
@click.argument("link")
@click.option("--since", required=True, help="15m, 2h, 2026-11-28T14:30.")
@click.option("--reason", required=True, help="Kept in the journal, and shown by `status`.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@BY
@OUTPUT
def undo(file: Path | None, link: str, since: str, reason: str, yes: bool, by: str | None, output: str) -> int:
    """Puts back what a link changed of late. Freezes the link first, shows the plan, and leaves the link frozen.

    Only what stands as the journal says it was written, and only what its source names or what answers at its address.
    """
    about = {"link": link, "since": moment(since), "reason": reason}
    found = call(socket(file), "undo", within=ANSWERS, by=by, **about)
    if output != "json":
        rows = [{**row, "change": change_of(row)} for row in found["changes"]]
        print_table(rows, ("action", "link", "service", "instance", "change"), "nothing to put back")
        print_table(found["left"], ("service", "instance", "why"))
        say(f"{link} is frozen: isthmus unfreeze {link} writes again what its sources say, and shows it first")
    if found["changes"] and (yes or click.confirm("put it back?", err=True)):
        found = call(socket(file), "undo", within=ANSWERS, by=by, sure=found["id"], **about)
        for row in found["failed"]:
            say(f"not written: {row['service']}/{row['instance']}: {row['why']}", err=True)
        if output != "json":
            say(f"put back: {len(found['changes']) - len(found['failed'])}")
    if output == "json":
        print_json(found)
    return FAILED if found["failed"] or (found["changes"] and not found["done"]) else OK
