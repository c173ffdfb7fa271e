"""The command that reads a stream back: what happened, and whether the stream holds what it should."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import msgspec

from bridge.adapter import Event
from bridge.cli.file import known_registry, load
from bridge.cli.offline import known_holds, looking, unreached
from bridge.cli.output import (
    ATTENTION,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    change_of,
    clock_time,
    command,
    fail,
    moment,
    print_json,
    print_json_line,
    print_table,
    say,
)
from bridge.cli.query import freezes
from bridge.cli.streams import logged
from bridge.config.schema import Configuration
from bridge.errors import ConfigError
from bridge.link import Policy
from bridge.report.plans import plan_rows, unwritten_rows

PREFIX = "io.isthmus."
DIFFERENT = "different"
COLUMNS = ("at", "type", "about", "service", "instance", "cause", "change", "by", "reason")


@command(
    "events",
    "isthmus events --since 1h --service pay",
    "0, also when Ctrl-C ends --follow, and with --rebuild: equal; 1 the stream, or with --rebuild a registry, is out "
    "of reach; 2 wrong usage or file; 3 with --rebuild: different",
)
@FILE
@click.option("--stream", help="Which one, where the file has several registries of kind kafka.")
@click.option("--follow", is_flag=True, help="Then what comes, until Ctrl-C.")
@click.option("--since", default="1h", show_default=True, help="So long ago (90s, 7d), or from 2026-11-28[T14:30].")
@click.option("--service", help="Of one service, in every picture, or as PICTURE:NAME in one.")
@click.option("--rebuild", is_flag=True, help="Compare what the state topic says with what it should hold.")
@OUTPUT
def events(
    file: Path | None, stream: str | None, follow: bool, since: str, service: str | None, rebuild: bool, output: str
) -> int:
    """Reads the log of a stream. Or rebuilds its picture and compares it; what is held or frozen is listed apart."""
    configuration = load(file, ephemeral=True)
    name = _stream(configuration, stream)
    if rebuild:
        return _rebuild(configuration, name, output)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_read(configuration, name, moment(since), service, follow, output))
    return OK


def _stream(configuration: Configuration, name: str | None) -> str:
    """The registry that is read; raises ConfigError."""
    if name is not None:
        return known_registry(configuration, name)
    found = [one for one, block in configuration.registries.items() if block.kind == "kafka"]
    if len(found) != 1:
        which = f"it has {', '.join(found)}: name one by --stream" if found else "it has no registry of kind kafka"
        raise ConfigError(f"{configuration.path}: {which}")
    return found[0]


# -- the log


def of_service(batch: Iterable[Event], service: str | None) -> Iterator[Event]:
    """Those about a service: by its name alone, or with its namespace."""
    for one in batch:
        name = one.service
        if service is None or (name is not None and service in (str(name), name.name)):
            yield one


async def _read(
    configuration: Configuration, name: str, since: float, service: str | None, follow: bool, output: str
) -> None:
    tell = _line if follow else _table
    async for batch in logged(configuration, name, since, follow=follow):
        tell(list(of_service(batch, service)), output)


def _table(batch: Sequence[Event], output: str) -> None:
    if output == "json":
        print_json([_json(one) for one in batch])
    else:
        print_table([_row(one) for one in batch], COLUMNS, "nothing", fit=False)


def _line(batch: Sequence[Event], output: str) -> None:
    for one in batch:
        if output == "json":
            print_json_line(_json(one))
        else:
            said = [str(cell) for key, cell in _row(one).items() if key in COLUMNS and cell not in ("", "-", None)]
            say("  ".join(said))


def _json(event: Event) -> Row:
    data = msgspec.json.decode(event.data)
    return {"id": event.id, "type": event.type, "at": event.seconds, "about": event.about, "data": data}


def _row(event: Event) -> Row:
    said: Row = msgspec.json.decode(event.data)
    texts = {key: said.get(key, "") for key in ("service", "instance", "cause", "by", "reason")}
    has_change = said.get("before") or said.get("after")
    row = {
        "at": clock_time(event.seconds),
        "type": event.type.removeprefix(PREFIX),
        "about": event.about,
        **texts,
        "change": change_of(said) if has_change else "",
    }
    return {column: row[column] for column in COLUMNS}


# -- the state


def _rebuild(configuration: Configuration, name: str, output: str) -> int:
    if not any(link.to == name for link in configuration.links):
        raise ConfigError(f"{configuration.path}: no link leads to {name}, so it should hold nothing")

    async def work() -> tuple[list[Row], list[str]]:
        async with looking(configuration) as (engine, _):
            holds = await asyncio.to_thread(known_holds, engine)
            apart = [{**row, "held": row["reason"]} for row in unwritten_rows(engine)]
            rows = [*_judged(configuration, plan_rows(engine), holds), *apart]
            return [row for row in rows if row["to"] == name], unreached(engine)

    rows, missing = asyncio.run(work())
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if missing:
        fail(f"what {name} should hold is not known", FAILED)
    rows.sort(key=lambda row: (row["state"], row["service"], row["instance"]))
    if output == "json":
        print_json(rows)
    else:
        shown = [{**row, "change": change_of(row) if "action" in row else ""} for row in rows]
        columns = ("state", "action", "link", "service", "instance", "cause", "change", "held")
        print_table(shown, columns, f"equal: {name} holds what it should")
    return ATTENTION if any(row["state"] == DIFFERENT for row in rows) else OK


def _judged(configuration: Configuration, rows: Iterable[Row], holds: Iterable[Row]) -> Iterator[Row]:
    """The rows of a plan with the reason why each is not made, else `different`. A link that observes has no part."""
    held = {tuple(item) for hold in holds for item in hold["items"]}
    frozen = freezes(configuration)
    observing = {link.name for link in configuration.links if link.policy is Policy.OBSERVE}
    for row in rows:
        if row["link"] in observing:
            continue
        state = DIFFERENT
        if row["held"] or (row["link"], row["service"], row["instance"]) in held:
            state = "held"
        elif row["link"] in frozen or "--all" in frozen:
            state = "frozen"
        yield {**row, "state": state}
