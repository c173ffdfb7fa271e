"""`isthmus group`: who writes which shard of what several daemons share, and how a destination is divided for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bridge.admin.client import call
from bridge.cli.file import known_registry, load, socket
from bridge.cli.output import (
    ATTENTION,
    BY,
    FILE,
    OK,
    OUTPUT,
    Row,
    command,
    gap,
    group,
    print_answer,
    print_table,
    say,
)
from bridge.cli.permitted import permitted
from bridge.config.schema import Configuration
from bridge.engine.dividing import divide, unite

PATIENCE = 12.0  # seconds that a daemon may take: it asks the group, and the store of the locks
EXITS = "0 it is so, 1 no daemon, or a daemon still writes there, 2 wrong usage or file, 3 (show) something waits"


class Group(click.Group):
    """Without a command of its own it shows."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with the default in its place."""
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


groups = group(
    "group",
    "Shows who writes which shard. Of each destination that the daemons of `bridge.group` share.",
    "isthmus group",
    EXITS,
    Group,
)


@command("show", "isthmus group show -o json", EXITS, groups)
@FILE
@OUTPUT
def show(file: Path | None, output: str) -> int:
    """Lists members and shards. Who should write each shard, who does, who claims it, and what that waits for."""
    rows = call(socket(file), "group", within=PATIENCE)
    print_answer(output, rows, lambda: _print(rows))
    return ATTENTION if any(row["faults"] or any(one["waits"] for one in row["shards"]) for row in rows) else OK


def _print(rows: list[Row]) -> None:
    if not rows:
        say("no destination is shared: `bridge.group` is not in the file, or nothing is written from a stream")
    for row in rows:
        say(f"{row['destination']}: group {row['group']}, {row['of']} shards")
        for fault in row["faults"]:
            say(f"  {fault}")
        members = [
            {**one, "shards": len(one["shards"]), "here": "here" if one["here"] else ""} for one in row["members"]
        ]
        print_table(members, ("who", "shards", "here"), "no member")
        shards = [{**one, "claims": " ".join(one["claims"])} for one in row["shards"]]
        print_table(shards, ("shard", "should", "writes", "claims", "waits"), "no shard")
        gap()


def _decided(file: Path | None, destination: str, what: str, by: str | None) -> Configuration:
    """The file, where it has that destination and this user may do that."""
    configuration = load(file, ephemeral=True)
    known_registry(configuration, destination)
    permitted(configuration, what, by)
    return configuration


def _tell(output: str, destination: str, shards: int | None, said: str) -> None:
    row = {"destination": destination, "shards": shards}
    print_answer(output, row, lambda: say(f"{destination} is {said} there from now on"))


@command("init", "isthmus group init core", EXITS, groups)
@FILE
@click.argument("destination")
@BY
@OUTPUT
def init(file: Path | None, destination: str, by: str | None, output: str) -> int:
    """Divides a destination. While no daemon writes there; daemons with `bridge.group` share it from then on."""
    count = asyncio.run(divide(_decided(file, destination, "group init", by), destination))
    _tell(output, destination, count, f"divided into {count} shards: only daemons with bridge.group write")
    return OK


@command("end", "isthmus group end core", EXITS, groups)
@FILE
@click.argument("destination")
@BY
@OUTPUT
def end(file: Path | None, destination: str, by: str | None, output: str) -> int:
    """Makes a destination whole again. While no member runs; one daemon without `bridge.group` writes it then."""
    asyncio.run(unite(_decided(file, destination, "group end", by), destination))
    _tell(output, destination, None, "whole: only a daemon without bridge.group writes")
    return OK
