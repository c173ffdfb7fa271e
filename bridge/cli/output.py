"""How commands are declared, and how they speak: exit codes, tables for people, JSON for runbooks."""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import click

from bridge import units
from bridge.admin.protocol import LONGEST_CLAIM, claim
from bridge.cli.file import Command
from bridge.report.text import CELL, block, shown

OK, FAILED, WRONG, ATTENTION = 0, 1, 2, 3  # and 4, NOT_PERMITTED
WIDTH = 100  # columns of a table, where the terminal has not more
LAST_CELL = 480  # characters of the last column's, which goes on in the next line
GAP = "  "
NARROW, LAST = 8, 24  # columns that a column of a table keeps at least, and the last one
WHOLE = frozenset({"id", "at", "kind", "action", "state"})  # what a cut would make useless

# What a cell says, and the colour of it on a terminal.
COLOURS = {
    **dict.fromkeys(("synced", "writer"), "green"),
    **dict.fromkeys(("known", "standby", "update", "parked", "shadowed", "withdrawn"), "yellow"),
    **dict.fromkeys(("stale", "unknown", "remove", "refused"), "red"),
}

Row = dict[str, Any]
COMMANDS: dict[str, click.Command] = {}  # those whose modules were imported, by name


def say(text: str, *, err: bool = False, colour: str | None = None) -> None:
    """Prints one line; nothing in it that a terminal would obey, and not without end."""
    click.echo(click.style(shown(text), fg=colour) if colour else shown(text), err=err)


def say_block(text: str, indent: str = "  ") -> None:
    """Prints a text of several lines, e.g. a raw record, likewise."""
    for line in block(text).split("\n"):
        click.echo(indent + line)


def gap() -> None:
    """An empty line."""
    click.echo()


def fail(text: str, code: int) -> NoReturn:
    """Prints each line of a text on standard error, and ends the process with that exit code."""
    for line in text.splitlines():
        say(line, err=True)
    sys.exit(code)


def group(name: str, text: str, example: str, exits: str, cls: type[click.Group] = click.Group) -> click.Group:
    """A command that has commands of its own; `example`, `exits`: as for one of them. `cls`: how it takes its words."""
    epilog = f"Exit codes: {exits}.\n\n\b\nExample:\n  {example}"
    made = cls(name, help=text, epilog=epilog, context_settings={"help_option_names": ["-h", "--help"]})
    COMMANDS[name] = made
    return made


def command(
    name: str, example: str, exits: str, of: click.Group | None = None
) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with an example in its help, and `exits`: what its exit codes mean, which are its return value.

    `of`: the command that it is one of.
    """

    def wrap(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            sys.exit(function(*args, **kwargs) or OK)

        epilog = f"Exit codes: {exits}.\n\n\b\nExample:\n  {example}"
        made = click.command(name, cls=Command, epilog=epilog)(run)
        if of is not None:
            of.add_command(made)
        else:
            COMMANDS[name] = made
        return made

    return wrap


FILE = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The configuration; else $ISTHMUS_FILE, ./isthmus.yaml, /etc/isthmus/isthmus.yaml.",
)


def _claimed(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    if name is not None and not (0 < len(name) <= LONGEST_CLAIM):
        raise click.BadParameter(f"should have 1 to {LONGEST_CLAIM} characters")
    return name


BY = click.option(
    "--by", callback=_claimed, help="Who decides: journaled as claimed, beside the user that the kernel names."
)
OUTPUT = click.option(
    "-o",
    "output",
    type=click.Choice(["table", "wide", "json"]),
    default="table",
    help="For people: within 100 columns, or wide and with every column; or JSON.",
)


def who(by: str | None = None) -> str:
    """Who runs this command, as the kernel knows it (a uid need not have a name), and who that claims to be."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = "?"
    return f"uid={os.getuid()} user={user} host={socket.gethostname()}{claim(by or '')}"


def duration(text: str) -> float:
    """Seconds of "90s", "2h", "7d"; a fault is one of usage."""
    try:
        return units.seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment(text: str) -> float:
    """Seconds since the epoch: of a length of time ago ("2h"), or of a date with or without a time, local or zoned."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - units.seconds(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a length of time (90s, 2h, 7d) nor a date (2026-11-28, 2026-11-28T14:30)"
        ) from None


def print_json(value: Any) -> None:
    """Everything, whole; ASCII, so that no terminal obeys it either."""
    click.echo(json.dumps(value, indent=2, default=str))


def print_answer(output: str, answer: Any, people: Callable[[], None]) -> None:
    """What a daemon answered: whole as JSON where `output` asks for it, else as `people()` prints it."""
    if output == "json":
        print_json(answer)
    else:
        people()


def print_json_line(value: Any) -> None:
    """One of many, on a line of its own: for whoever reads while they come."""
    click.echo(json.dumps(value, default=str))


def is_wide() -> bool:
    """Whether the command that runs was asked for wide tables."""
    context = click.get_current_context(silent=True)
    return context is not None and context.params.get("output") == "wide"


def print_table(
    rows: Sequence[Row], columns: Sequence[str], empty: str = "", *, more: Sequence[str] = (), fit: bool = True
) -> None:
    """Columns as wide as their widest cell, in `wide` the ones of `more` as well.

    `fit`: where that is too wide, columns that say nothing are left out, the widest ones are cut until the table fits,
    and the last one goes on in the next line.
    """
    if not rows:
        if empty:
            say(empty)
        return
    wide = is_wide()
    columns = (*columns, *more) if wide else columns
    heads = [column.upper().replace("_", " ") for column in columns]
    longest = dict.fromkeys(columns, CELL) | {columns[-1]: CELL if wide else LAST_CELL}
    cells = [[shown(cell_text(row.get(column)), longest[column]) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    room = max(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else 0)
    if fit and not wide and _taken(widths) > room:
        said = [i for i in range(len(columns)) if any(line[i] != "-" for line in cells)]
        heads, *cells = ([line[i] for i in said] for line in [heads, *cells])
        least = [widths[i] if columns[i] in WHOLE else NARROW for i in said]
        least[-1] = LAST
        widths = _fitting([widths[i] for i in said], least, room)
    _print_line(heads, widths, lambda _: {"bold": True})
    for line in cells:
        _print_line(line, widths, lambda text: {"fg": COLOURS.get(text)})


def _taken(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _fitting(widths: list[int], least: list[int], room: int) -> list[int]:
    """The widths, the widest columns cut until all of them fit, but none below its least."""
    found = list(widths)
    while _taken(found) > room:
        cuttable = [i for i in range(len(found)) if found[i] > least[i]]
        if not cuttable:
            break
        found[max(cuttable, key=lambda i: found[i])] -= 1
    return found


def _print_line(cells: Sequence[str], widths: Sequence[int], style: Callable[[str], dict[str, Any]]) -> None:
    last = textwrap.wrap(cells[-1], widths[-1], break_on_hyphens=False) or [""]
    cut = [shown(text, width).ljust(width) for text, width in zip(cells[:-1], widths, strict=False)]
    for part in last:
        padded = [*cut, part]
        while padded and not padded[-1].strip():
            padded.pop()
        click.echo(GAP.join(click.style(text, **style(text.strip())) for text in padded))
        cut = [" " * width for width in widths[:-1]]


def cell_text(value: Any) -> str:
    """A value as a cell shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(cell_text, value)) or "-"
    return str(value)


def brief(instance: Row | None) -> str:
    """An instance in one cell: its address, ports and health."""
    if not instance:
        return "-"
    ports = ",".join(str(port["number"]) for port in instance.get("ports", []))
    health = instance.get("health", "")
    return f"{instance['address']}:{ports}" + (f" {health}" if health else "")


def fields_changed(before: Row, after: Row) -> str:
    """The fields in which two forms of one instance differ, each with both values."""
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return "; ".join(f"{key} {_value(before.get(key))} -> {_value(after.get(key))}" for key in keys)


def _value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (dict, list)) else cell_text(value)


def clock_time(at: float) -> str:
    """Seconds since the epoch as local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def timed(rows: Sequence[Row]) -> list[Row]:
    """Rows whose `at` is readable."""
    return [{**row, "at": clock_time(row["at"])} for row in rows]


def span(seconds: float) -> str:
    """A length of time for people: 42 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def warned_of(rows: Sequence[Row]) -> int:
    """As `warned`, by what became of a decision at each destination; nothing is written where all links observe."""
    alone = [row for row in rows if row["here_only"]]
    code = warned([row["destination"] for row in alone if not row.get("observes")])
    if quiet := [row["destination"] for row in alone if row.get("observes")]:
        say(
            f"this host only: what leads to {', '.join(quiet)} observes, so nothing is written there, no note either; "
            "give the command on each host before the file lets it write",
            err=True,
        )
    return ATTENTION if quiet else code


def warned(here_only: list[str]) -> int:
    """Says for which destinations no other host was told; the exit code."""
    if here_only:
        say(
            f"this host only: {', '.join(here_only)} cannot lock, and bridge.seat names no registry that keeps a note "
            "for other hosts; give the command on each host that may write",
            err=True,
        )
    return ATTENTION if here_only else OK


def print_holds(rows: Sequence[Row]) -> None:
    """The held sets, what is in each, and the command that lets each go."""
    cells = [{**row, "goes": "by approve" if row["due_in"] is None else f"in {span(row['due_in'])}"} for row in rows]
    columns = ("id", "link", "cause", "services", "instances", "age", "goes", "rule")
    print_table(cells, columns, "nothing is held", more=("scope",))
    for row in rows:
        for link, service, instance in row["items"][:20]:
            say(f"  {row['id']}  {link}  {service}/{instance}")
        if len(row["items"]) > 20:
            say(f"  {row['id']}  and {len(row['items']) - 20} more; -o json has all")
        if row.get("others"):
            say(f"  {row['id']}  and {row['others']} of services that you may not read")
    for row in rows:
        if row["due_in"] is None:
            say(f"let it go, if it is meant: isthmus approve {row['id']} --reason R")
        else:
            say(
                f"goes in {span(row['due_in'])} if a fresh read agrees; at once: isthmus approve {row['id']} --reason R"
            )


def print_approved(row: Row) -> None:
    """An approval in force, of which something has not gone yet."""
    until = f"until {clock_time(row['until'])}"
    say(f"approved {row['id']}, {len(row['items'])} not gone yet: {row['reason']} (by {row['by']}, {until})")


def how_it_goes(hold: Row) -> str:
    """What frees a held set, and the command that frees it now."""
    now = f"isthmus approve {hold['id']} --reason R"
    if hold["due_in"] is None:
        return f"stays until an operator lets it go: {now}"
    return f"goes in {span(hold['due_in'])} if a fresh read agrees; at once: {now}"


def print_plan(found: dict[str, Any], empty: str = "nothing to change") -> None:
    """Changes, holds, what is not written, and the freezes that keep any of it from being done."""
    rows = [{**row, "change": change_of(row)} for row in found["changes"]]
    print_table(rows, ("action", "link", "service", "instance", "cause", "change", "held"), empty, more=("to",))
    if found["holds"]:
        gap()
        print_holds(found["holds"])
    if found["not_written"]:
        gap()
        print_table(found["not_written"], ("state", "to", "service", "instance", "age", "reason"))
    for row in found.get("advice", ()):
        level = "warning" if row["warning"] else "note"
        say(f"{level}: {' '.join(filter(None, (row['to'], row['service'])))}: {row['text']}")
    for link, freeze in found.get("freezes", {}).items():
        say(f"frozen: {link}: {freeze['reason']} (by {freeze['by']}); none of its changes is written until `unfreeze`")


def change_of(row: Row) -> str:
    """What a change made of an instance: the fields that differ, or the instance."""
    before, after = row.get("before"), row.get("after")
    if before and after:
        return fields_changed(before, after) or "only the entry's mark"
    return brief(after or before)
