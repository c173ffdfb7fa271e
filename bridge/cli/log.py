"""The command that shows what was done and why: lines of the journal, or of a stream that it was shipped to."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec

from bridge.admin.client import call
from bridge.admin.protocol import NoDaemonError
from bridge.cli.file import folder, known_registry, load, outline
from bridge.cli.output import (
    ATTENTION,
    FILE,
    OK,
    OUTPUT,
    change_of,
    command,
    gap,
    moment,
    print_json,
    print_table,
    say,
    timed,
)
from bridge.cli.streams import logged
from bridge.config.load import Outline
from bridge.config.schema import Configuration
from bridge.errors import ConfigError, Unavailable
from bridge.report.happenings import record_of
from bridge.report.story import BESIDE, Line, is_about, story
from bridge.report.trial import days, figures
from bridge.state import segments
from bridge.state.record import Record

DAY = 86_400.0
SINCE = "24h"
# A time that is given to the minute, or to the day, is meant to its end.
PRECISION = ((re.compile(r"[^:]*\d\d:\d\d"), 60.0), (re.compile(r"\d{4}-\d\d-\d\d"), DAY))


@command(
    "log",
    "isthmus log pay-api/i1 --at 2026-11-28T14:30 --why",
    "0, 1 the journal or the stream cannot be read, 2 wrong usage or file, 3 with --why: nothing is known of it",
)
@FILE
@click.argument("instance", required=False, metavar="[SERVICE/INSTANCE]")
@click.option("--service", help="Of one service.")
@click.option("--link", help="Of one link.")
@click.option("--since", help="So long ago (90s, 7d), or from 2026-11-28[T14:30].  [default: 24h; with --why: all]")
@click.option("--until", help="Likewise; without: until now.")
@click.option("--at", help="With --why: the moment that is asked for; without: now.")
@click.option("--why", is_flag=True, help="One story of an instance: source, limits, hold, who approved, file, writer.")
@click.option("--from", "stream", help="From the log of this stream, also where the host is gone.")
@click.option("--would", is_flag=True, help="What links that observe would have written and held.")
@click.option("--summary", is_flag=True, help="With --would: by day, and the guard that would have held nothing.")
@OUTPUT
def log_(
    file: Path | None,
    instance: str | None,
    service: str | None,
    link: str | None,
    since: str | None,
    until: str | None,
    at: str | None,
    why: bool,
    stream: str | None,
    would: bool,
    summary: bool,
    output: str,
) -> int:
    """Lists what was written or removed, and why. Also who approved or froze what, and for which reason."""
    if at is not None and not why:
        raise click.UsageError("--at goes with --why")
    if why and instance is None:
        raise click.UsageError("--why asks for one instance, as SERVICE/INSTANCE")
    if summary and not would:
        raise click.UsageError("--summary goes with --would")
    if why and instance is not None:
        return _why(file, instance, float("inf") if at is None else _end_of(at), since, stream, output)
    end = float("inf") if until is None else moment(until)
    begin = moment(since or SINCE)
    if end <= begin:
        raise click.BadParameter(f"--until {until} is not after --since {since or SINCE}")
    found = _told(file, stream, begin) if stream else _records(outline(file), service, link, begin)
    found = [one for one in found if one.at <= end and one.would == would and _fits(one, service, link, instance)]
    return _print_trial(found, load(file, ephemeral=True), output) if summary else _print(found, output)


def _fits(one: Record, service: str | None, link: str | None, instance: str | None) -> bool:
    fits = service in (None, one.service) and link in (None, one.link)
    return fits and (instance is None or is_about(one, instance))


def _print(found: list[Record], output: str) -> int:
    rows = [msgspec.to_builtins(one) for one in found]
    if output == "json":
        print_json(rows)
        return OK
    short = [{**row, "change": change_of(row)} for row in rows]
    print_table(
        timed(short),
        ("at", "kind", "link", "service", "instance", "cause", "change", "by", "reason"),
        "nothing",
        fit=False,
    )
    return OK


def _print_trial(records: list[Record], configuration: Configuration, output: str) -> int:
    daily = days(records)
    guards = figures(records, {link.name: link.guard.window for link in configuration.links})
    if output == "json":
        print_json({"days": daily, "guard": guards})
        return OK
    print_table(daily, ("day", "link", "add", "update", "remove", "hold"), "nothing would have been written")
    if guards:
        gap()
        say("with these figures in its guard, a link would have held nothing of this:")
        print_table(guards, ("link", "source_count", "hard_count", "service_share", "last_instance"))
    return OK


# -- one story


def _why(file: Path | None, instance: str, at: float, since: str | None, stream: str | None, output: str) -> int:
    if stream is not None:
        begin = moment(since) if since is not None else min(at, time.time()) - DAY
        lines = _shipped(load(file, ephemeral=True), stream, begin)
    else:
        lines = _noted(outline(file), instance, moment(since) if since is not None else 0.0)
    rows = story(lines, instance, at)
    if output == "json":
        print_json(rows)
    else:
        print_table(timed(rows), ("at", "step", "to", "what", "why"), f"nothing is known of {instance}", fit=False)
    return OK if rows else ATTENTION


def _end_of(text: str) -> float:
    """The last moment that a time means: 03:12 is meant to the end of that minute."""
    precision = next((length for shape, length in PRECISION if shape.fullmatch(text)), 0.0)
    return moment(text) + precision


def _noted(configuration: Outline, instance: str, begin: float) -> list[Line]:
    """The lines of this host's journal that may be about an instance, or belong to its story."""
    daemon = f"{socket.gethostname()}:{folder(configuration)}"
    needles = [msgspec.json.encode(instance.rpartition("/")[2])[1:], *(b'"kind":"%b"' % k.encode() for k in BESIDE)]

    def read(place: Path) -> Iterator[Record]:
        return (one for one in segments.holding(place, needles) if one.at >= begin)

    return [Line(one, daemon) for one in _opened(configuration, read, None, None, begin)]


def _shipped(configuration: Configuration, stream: str, begin: float) -> list[Line]:
    """The lines that a stream was told."""

    async def read() -> list[Line]:
        found: list[Line] = []
        async for batch in logged(configuration, known_registry(configuration, stream), begin, follow=False):
            found += [Line(*record_of(event)) for event in batch]
        return found

    return sorted(asyncio.run(read()), key=lambda line: line.record.at)


def _told(file: Path | None, stream: str, begin: float) -> list[Record]:
    return [line.record for line in _shipped(load(file, ephemeral=True), stream, begin)]


# -- the journal


def _records(configuration: Outline, service: str | None, link: str | None, since: float) -> list[Record]:
    """The lines of the journal; raises ConfigError for a link that neither the file nor the journal knows."""

    def read(place: Path) -> Iterator[Record]:
        return segments.read(place, since=since, service=service, link=link)

    found = _opened(configuration, read, service, link, since)
    if link is not None and link not in configuration.links and not found:
        raise ConfigError(f"{link!r} is no link of {configuration.path}; it has {', '.join(configuration.links)}")
    return found


def _opened(
    configuration: Outline,
    read: Callable[[Path], Iterator[Record]],
    service: str | None,
    link: str | None,
    since: float,
) -> list[Record]:
    """What is read of the journal; where this user may not, the daemon is asked."""
    place = folder(configuration) / "journal"
    try:
        os.listdir(place)  # says why, where a search for files would find none
        return list(read(place))
    except FileNotFoundError:
        raise Unavailable(f"{place}: is not there yet; it begins with the first `isthmus run`") from None
    except PermissionError:
        return _asked_records(configuration, service, link, since)
    except OSError as error:
        raise Unavailable(f"{place}: {error.strerror or error}") from None


def _asked_records(configuration: Outline, service: str | None, link: str | None, since: float) -> list[Record]:
    """The lines that the daemon shows to a user who may not read its folder; raises Unavailable without a daemon."""
    try:
        found = call(folder(configuration) / "admin.sock", "log", service=service, link=link, since=since)
    except NoDaemonError as error:
        raise Unavailable(f"the journal may not be read by this user, and {error}") from None
    return msgspec.convert(found, list[Record])
