"""`isthmus probe --listening`: who is connected to the old side, by the connection table of the machine it runs at."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from bridge.cli.file import write_json
from bridge.cli.output import ATTENTION, OK, Row, print_json, print_table, say, span
from bridge.errors import ConfigError
from bridge.migration.quiet import Listening, Watch, looked
from bridge.migration.reports import decoded
from bridge.report import connections
from bridge.report.targets import Targets

EVERY = 1.0  # seconds between two looks
WRITE = 10.0  # seconds between two writes of the report


def listening(targets: Targets, report: Path | None, ignored: tuple[str, ...], lasting: float, output: str) -> int:
    """Looks for so many seconds, once at least; an earlier report of this machine goes on where it ended."""
    here = connections.mine({one.address for one in targets.targets})
    ports = {one.port for one in targets.targets}
    found = _before(report)
    ends, wrote = time.monotonic() + lasting, 0.0
    while True:
        fresh = connections.look(targets, here, connections.table(ports), ignored, time.time())
        found = looked(found, fresh)
        over = time.monotonic() >= ends
        if report is not None and (over or time.monotonic() - wrote >= WRITE):
            write_json(report, found)
            wrote = time.monotonic()
        if over:
            break
        time.sleep(min(EVERY, max(0.0, ends - time.monotonic())))
    return _say(targets, len(here), found, output)


def _before(report: Path | None) -> Listening | None:
    if report is None or not report.exists():
        return None
    try:
        found = decoded(report.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{report}: is no report of `isthmus probe --listening`: {error}") from None
    if not isinstance(found, Listening):
        raise ConfigError(f"{report}: is a report of what was reached; name another file for --listening")
    return found


def _say(targets: Targets, here: int, found: Listening, output: str) -> int:
    if output == "json":
        print_json(msgspec.to_builtins(found))
    else:
        rows = [_row(one, found.at) for one in found.watched]
        print_table(rows, ("address", "port", "watched", "quiet", "peers"), "nothing of the targets listens here")
        addresses = len({one.address for one in targets.targets})
        say(
            f"{here} of {addresses} addresses are of {found.host}; {len(found.watched)} ports of theirs are listened at"
        )
    return ATTENTION if not found.watched or any(one.last == found.at for one in found.watched) else OK


def _row(one: Watch, at: float) -> Row:
    quiet = at - (one.since if one.last is None else max(one.last, one.since))
    return {
        "address": one.address,
        "port": one.port,
        "watched": span(at - one.since),
        "quiet": span(quiet) if one.last != at else "no",
        "peers": " ".join(one.peers),
    }
