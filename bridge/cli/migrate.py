"""`isthmus migrate`: a service goes from one side to the other, step by step, and back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import msgspec

from bridge.admin.client import call
from bridge.cli.file import socket
from bridge.cli.output import (
    BY,
    FILE,
    OUTPUT,
    Row,
    command,
    gap,
    group,
    print_answer,
    print_json,
    print_table,
    say,
    span,
)
from bridge.errors import ConfigError
from bridge.migration.reports import decoded
from bridge.report.migrations import Exit, worst

EXITS = (
    "0 it is so (status: done, or none was started), 1 failure, 2 wrong usage or file, 3 a gate failed, or it rolls "
    "back, 4 waits for a person or is paused, 5 no data, 6 nothing to do in this state, 7 running"
)
EVERY = 0.5  # seconds between two looks with --wait
REPORT = click.Path(exists=True, dir_okay=False, path_type=Path)
REPORTS = click.option(
    "--report",
    "reports",
    multiple=True,
    type=REPORT,
    help="Of `isthmus probe --report`: what consumers reach, or who is connected to the old side.",
)

migrate = group(
    "migrate",
    "Moves services from one side to the other. In the steps of `migrations:` in the file; NAME is a migration, or "
    "NAME/SERVICE one move of it.",
    "isthmus migrate plan pay",
    EXITS,
)


@command("plan", "isthmus migrate plan pay", EXITS, migrate)
@FILE
@click.argument("name")
@OUTPUT
def plan(file: Path | None, name: str, output: str) -> int:
    """Shows what each step comes to. At each place: what it rounds to, who reads it, and what is missing."""
    found = call(socket(file), "migrate-plan", name=name)
    print_answer(output, found, lambda: _print_plan(found))
    return _unread(found) or (1 if any(row["missing"] or row["nowhere"] for row in found) else 0)


def _unread(found: list[Row]) -> int:
    """Says what was not read when a plan was made, which may then be more than it has; the exit code, 0: all was."""
    texts = dict.fromkeys(row["unread"] for row in found if row["unread"])
    for text in texts:
        say(f"NOT ALL IS KNOWN: {text}; ask again once it is read", err=True)
    return Exit.NO_DATA if texts else 0


def _print_plan(found: list[Row]) -> None:
    for row in found:
        say(row["move"])
        shown = [
            {**one, "steps": " ".join(f"{step}%={said:g}" for step, said in one["steps"].items())}
            for one in row["places"]
        ]
        print_table(shown, ("place", "name", "from", "to", "means", "settles", "steps"), "no place yet")
        for place in row["already"]:
            say(f"at 100 % already: {place}, where the new side is native (`attach_at` lets its consumers call both)")
        for one in row["places"]:
            if one["begins"] is not None:
                say(f"attached: at {one['place']} the new side has {one['begins']:g} % before the first step")
            for kind in one["restarts"]:
                say(f"restart: {kind} at {one['place']} never follows by itself")
            _print_natives(one)
            for kind in one["not_steered"]:
                say(f"not steered: {kind} at {one['place']} goes its own way; its share is to be measured")
            if one["lacks"]:
                say(f"by counts: nobody obeys weights at {one['place']} without `{one['lacks']}: true` in its block")
        for one in row["observed"]:
            say(f"observed: {_consumer(one)}")
        for one in row["parity"]:
            say(f"parity {one['severity']}: {one['what']}: {one['text']}")
        for text in (*row["missing"], *row["nowhere"], *row["refused"]):
            say(f"NOT READY: {text}")
        gap()


def _print_natives(place: Row) -> None:
    """How the natives of a place leave: by us, or by people at their machines."""
    goes = place["natives_go"]
    if goes["by"] == "steer":
        say(f"natives at {place['place']}: {goes['batches']} batches are taken out of service, one a settle time")
    elif goes["by"]:
        say(f"natives at {place['place']}: people stop them, in {goes['batches']} batches; at each machine of a batch:")
        for text in goes["commands"]:
            say(f"  {text}")


@command(
    "parity",
    "isthmus migrate parity pay",
    "0 nothing differs, 1 failure, 2 wrong usage or file, 3 it blocks, 5 not all is read yet",
    migrate,
)
@FILE
@click.argument("name")
@REPORTS
@OUTPUT
def parity(file: Path | None, name: str, reports: tuple[Path, ...], output: str) -> int:
    """Compares both sides. What consumers would notice: ports, protocols, TLS, names, versions, weights, capacity."""
    found = call(socket(file), "migrate-plan", name=name, reports=_reports(reports))
    rows = [{"move": row["move"], **one} for row in found for one in row["parity"]]
    shown = [{**row, "subjects": len(row["subjects"]) or ""} for row in rows]
    columns = ("move", "severity", "what", "subjects", "text")
    print_answer(output, rows, lambda: print_table(shown, columns, "nothing differs"))
    return _unread(found) or (3 if any(row["severity"] == "block" for row in rows) else 0)


def _reports(paths: Iterable[Path]) -> list[Row]:
    return [_report(path) for path in paths]


def _report(path: Path) -> Row:
    try:
        return cast(Row, msgspec.to_builtins(decoded(path.read_bytes())))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: is no report of `isthmus probe --report`: {error}") from None


@command("targets", "isthmus migrate targets pay > old-side.json", "0, 1 no daemon, 2 wrong usage or file", migrate)
@FILE
@click.argument("name")
@click.option("--side", type=click.Choice(["from", "to"]), default="from", show_default=True, help="Of which side.")
def targets(file: Path | None, name: str, side: str) -> int:
    """Prints the addresses of a side. For `probe --targets` elsewhere: `--listening` at the machines of `from`."""
    print_json(call(socket(file), "migrate-targets", name=name, side=side))
    return 0


@command("report", "isthmus migrate report pay probe.json", EXITS, migrate)
@FILE
@click.argument("name")
@click.argument("reports", nargs=-1, required=True, type=REPORT, metavar="FILE...")
@BY
@OUTPUT
def report(file: Path | None, name: str, reports: tuple[Path, ...], by: str | None, output: str) -> int:
    """Hands in reports of `isthmus probe`. What hosts reached, and who is connected to the old side; for a day."""
    return _act(file, "report", name, output, wait=False, by=by, reports=_reports(reports))


@command("readers", "isthmus migrate readers pay", "0, 1 no daemon, 2 wrong usage or file", migrate)
@FILE
@click.argument("name")
@OUTPUT
def readers(file: Path | None, name: str, output: str) -> int:
    """Shows who reads its services. What each place knows, whom it cannot know of, and the command that tells more."""
    rows = call(socket(file), "migrate-readers", name=name)
    print_answer(output, rows, lambda: _print_readers(rows))
    return 0


def _print_readers(rows: list[Row]) -> None:
    shown = [{**row, "seen": span(time.time() - row["at"])} for row in rows]
    columns = ("registry", "service", "reader", "certainty", "seen", "evidence")
    print_table(shown, columns, "no place has these services")
    for text in dict.fromkeys(row["command"] for row in rows if row["command"]):
        say(f"more: {text}")


@command("status", "isthmus migrate status pay", EXITS, migrate)
@FILE
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Go on, until it is interrupted.")
@OUTPUT
def status(file: Path | None, name: str | None, watch: bool, output: str) -> int:
    """Shows where every move is. Its share as meant and as it stands, its gates, what it waits for, the way back."""
    while True:
        rows = call(socket(file), "migrate-status", name=name)
        if watch:
            click.clear()
        print_answer(output, rows, partial(_print_status, rows))
        if not watch:
            return worst([row["code"] for row in rows])
        time.sleep(2)


def _print_status(rows: list[Row]) -> None:
    shown = [{**row, "step": f"{row['step']} of {row['steps']}" if row.get("step") else ""} for row in rows]
    print_table(
        shown, ("move", "phase", "step", "share", "waits", "why"), "nothing is started, and no service is found"
    )
    for row in rows:
        for one in row.get("places", ()):
            measured = "-" if one["measured"] is None else f"{one['measured']:g} %"
            say(f"{row['move']} at {one['place']}: meant {one['intended']:g} % by {one['means']}, stands at {measured}")
        if row.get("requests") is not None:
            say(f"{row['move']} requests: {row['requests']:g} % are measured at the new side")
        elif row.get("requests_why"):
            say(f"{row['move']} requests: not measured: {row['requests_why']}")
        for gate in row.get("gates", ()):
            look = gate["look"] or {}
            say(f"{row['move']} gate {gate['gate']}: {_said(look)}")
        for one in row.get("consumers", ()):
            if one["observed"]:
                say(f"{row['move']} observed: {_consumer(one)}")
        for place, keys in row.get("steered", {}).items():
            say(f"{row['move']} natives at {place}: {len(keys)} are out of service: {', '.join(keys)}")
        if row.get("called"):
            say(f"{row['move']} natives that are out: {_calls(row['called'])}")
        if row.get("way_back"):
            say(f"{row['move']} way back: {row['way_back']}")


def _consumer(one: Row) -> str:
    takes = "never follows by itself" if one["settles"] is None else f"follows within {one['settles']:g} s"
    return f"{one['consumer']} reads {one['place']} and {takes}" + ("" if one["declared"] else "; not in `consumers`")


def _calls(called: Row) -> str:
    """The requests at natives that are out of service."""
    if not called["counted"]:
        return str(called["why"])
    if called["requests"] is None:
        return f"their requests are not known: {called['why'] or 'it is too early'}"
    return f"{called['requests']:.4g} requests were counted there last"


def _said(look: Row) -> str:
    values = ", ".join(f"{side} {value:g}" for side, value in look.get("values", {}).items())
    return f"{look.get('result', 'not looked at yet')}: {look.get('reason', '')}" + (f" ({values})" if values else "")


def _act(file: Path | None, verb: str, name: str, output: str, wait: bool, by: str | None, **said: Any) -> int:
    leaves = call(socket(file), "migrate-status", name=name) if wait and verb == "next" else []
    rows = call(socket(file), "migrate", by=by, verb=verb, name=name, **said)
    print_answer(output, rows, lambda: _print_done(rows))
    code = worst([row["code"] for row in rows])
    return _waited(file, name, {row["move"]: row.get("number") for row in leaves}) if wait and code == 0 else code


def _print_done(rows: list[Row]) -> None:
    for row in rows:
        say(f"{row['move']}: {row['text']}", err=row["code"] != Exit.OK)


def _waited(file: Path | None, name: str, leaves: Mapping[str, int | None]) -> int:
    """Until every move has settled, or one cannot go on by itself. `leaves`: the numbers of the steps they leave."""
    while True:
        rows = call(socket(file), "migrate-status", name=name)
        code = worst([row["code"] for row in rows])
        if all(_has_settled(row, leaves.get(row["move"])) for row in rows):
            return Exit.OK if code in (Exit.RUNNING, Exit.PERSON) else code
        if code != Exit.RUNNING:
            for row in rows:
                say(f"{row['move']}: {row['phase']}: waits for {row['waits']}: {row['why']}", err=True)
            return code
        time.sleep(EVERY)


def _has_settled(row: Row, leaves: int | None) -> bool:
    """Whether everybody follows the step that a move is at, which is not the one that it `leaves`.

    That a person is waited for then is how a step ends; before the first one, and in a pause, it is what keeps it.
    """
    person = row["waits"] == "person" and not row["paused"] and row["phase"] in ("shift", "drain", "retire")
    there = (row["waits"] == "time" or person) and row["settled"] is not None and row["number"] != leaves
    return row["waits"] == "nothing" or there


REASON = click.option("--reason", help="Kept in the journal.")
WAIT = click.option("--wait", is_flag=True, help="Until every place and every daemon follows.")


def _verb(verb: str, text: str, *options: Callable[[Any], Any], reason: bool = False) -> None:
    """One verb of the state machine, with the options that only it has."""

    def run(file: Path | None, name: str, output: str, wait: bool, by: str | None, **said: Any) -> int:
        if reason and not said.get("reason"):
            raise click.UsageError("say why: --reason")
        said["reports"] = _reports(said.get("reports") or ())
        return _act(file, verb, name, output, wait, by, **said)

    run.__doc__ = text
    run.__name__ = verb
    for option in (OUTPUT, BY, WAIT, REASON, *options, click.argument("name"), FILE):
        run = option(run)
    command(verb, f"isthmus migrate {verb} pay", EXITS, migrate)(run)


STEER = click.option(
    "--yes-write-natives", "natives", is_flag=True, help="Let `natives: steer` write beside natives' records."
)

_verb("start", "Begins. Every service that the migration finds, `at_once` of them at a time.", REPORTS, STEER)
_verb(
    "next",
    "Goes on. Where the step waits for a person; a gate that failed is never passed.",
    click.option("--without", multiple=True, metavar="GATE", help="Do without this gate's data in this step."),
)
_verb("pause", "Stands still. Nothing moves until `resume`.")
_verb("resume", "Goes on after a pause. The time of the step begins anew.")
_verb(
    "back",
    "Goes back. To the step before, or to one at most N percent.",
    click.option("--to", type=click.FloatRange(0, 100), metavar="N", help="Percent."),
    click.option("--now", is_flag=True, help="At once, without a step between."),
)
_verb(
    "rollback",
    "Goes back to nothing. One step a settle time, to a side that serves.",
    click.option("--now", is_flag=True, help="At once: skips the pace, not the look whether the old side serves."),
    reason=True,
)
_verb("abort", "Lets go. The share stays as it is, and nothing moves it any more.", reason=True)
_verb(
    "finish",
    "Ends it. The old side has no request any more, or somebody says so.",
    click.option("--unmeasured", is_flag=True, help="Nobody measured it: a person says so."),
    REPORTS,
    reason=True,
)
_verb("reopen", "Takes it up again. Within `keep` after it is done.", reason=True)
_verb("forget", "Drops what is known of it. What links say is true from then on.", reason=True)
_verb("apply", "Takes a changed block over. While it is paused.", STEER, reason=True)
