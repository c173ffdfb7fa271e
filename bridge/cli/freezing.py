"""Stopping writes and letting them go on, whatever state daemon, disk and other hosts are in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.admin.client import call
from bridge.admin.protocol import NOT_PERMITTED, NoDaemonError, RefusedError, SilentDaemonError
from bridge.cli.output import FAILED, Row, fail, say, who
from bridge.config.load import Outline
from bridge.config.schema import Configuration
from bridge.destination.note import refusal
from bridge.engine import stopping
from bridge.errors import ConfigError, Unavailable
from bridge.state import folder as state
from bridge.state import segments
from bridge.state.decisions import Decision, name_of

DONE = {"freeze": "frozen", "unfreeze": "unfrozen"}
ANSWERS = 15.0  # seconds that a daemon has: it waits for the disk and for the writer


def named(key: str) -> str:
    """What a freeze is called on the command line."""
    return "--all" if key == state.EVERY_LINK else key


def freeze(
    configuration: Outline,
    load: Callable[[], Configuration],
    place: Path,
    key: str,
    reason: str,
    by: str | None,
    lasting: float | None,
) -> Row:
    """Freezes by way of the daemon, where one answers, else in the state folder and in the notes at destinations.

    `load` gives the whole file, which only the notes need. `by`: who decides, where that is claimed.
    """
    answer = _asked(place, "freeze", by, link=key, reason=reason, lasting=lasting)
    if answer is not None:
        return answer
    kept = _opened(place, configuration, "frozen")
    if why := refusal(kept.decisions.of(state.Kind.FREEZE).values(), key, reason):
        fail(f"NOT frozen: {why}", FAILED)
    made = kept.decisions.freeze(key, reason, who(by), lasting)
    row = {"frozen": key, "reason": reason, "by": made.by, "since": made.at, "until": made.until}
    return {**row, **_told(kept, load, key, made)}


def unfreeze(configuration: Outline, load: Callable[[], Configuration], place: Path, key: str, by: str | None) -> Row:
    """As `freeze`; `pending` is what is planned then, None: no daemon runs."""
    answer = _asked(place, "unfreeze", by, link=key)
    if answer is not None:
        return answer
    kept = _opened(place, configuration, "unfrozen")
    if kept.decisions.unfreeze(key) is None:
        frozen = ", ".join(named(one) for one in kept.decisions.of(state.Kind.FREEZE)) or "nothing"
        fail(f"{named(key)} is not frozen; {frozen} is", FAILED)
    return {"unfrozen": key, "pending": None, **_told(kept, load, key, None, who(by))}


def _asked(place: Path, what: str, by: str | None, **arguments: Any) -> Row | None:
    """What the daemon answers; None: there is none, or it is stopped, or too old to be asked."""
    try:
        answer: Row = call(place / "admin.sock", what, within=ANSWERS, by=by, **arguments)
    except (NoDaemonError, SilentDaemonError):
        return None
    except RefusedError as error:
        fail(f"NOT {DONE[what]}: {error}", NOT_PERMITTED)
    except ConfigError as error:  # no such command: an older daemon
        fail(f"NOT {DONE[what]}: the daemon that runs here is older than this command: {error}; restart it", FAILED)
    return answer


def _opened(place: Path, configuration: Outline, what: str) -> state.State:
    try:
        return state.for_command(place, configuration.bridge.id)
    except Unavailable as error:
        fail(f"NOT {what}: {error}", FAILED)


def _told(kept: state.State, load: Callable[[], Configuration], key: str, made: Decision | None, by: str = "") -> Row:
    """Brings a decision to the disk and to all who might write; without the disk the notes are what counts."""
    saved = kept.save()
    fault = kept.decisions.fault
    told: list[stopping.Followed] = []
    try:
        told = asyncio.run(stopping.tell(load(), key, name_of(state.Kind.FREEZE, key), made))
        rows = [one.row for one in told]
    except ConfigError as error:
        why = f"another host may write, and cannot be told, for the file has faults: {error.faults[0]}"
        rows = [stopping.Followed("", None, why).row]
    if not saved and fault is not None and not (rows and all(one.writer is not None for one in told)):
        rows.append(stopping.Followed("", None, fault.reason).row)
    if kept.folder is not None:
        try:
            kind, reason = ("freeze", made.reason) if made is not None else ("unfreeze", "")
            segments.note(kept.folder / "journal", kind, link=key, reason=reason, by=made.by if made else by)
        except Unavailable as error:
            say(str(error), err=True)
    return {"unsaved": fault.reason if fault is not None else "", "destinations": rows}
