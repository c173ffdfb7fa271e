"""How commands speak: the group they belong to, their errors and exit codes, tables for people, JSON for runbooks."""

from __future__ import annotations

import functools
import getpass
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from bridge import config, document
from bridge.blocks import Configuration
from bridge.errors import ConfigError, IsthmusError

OK, FAILED, WRONG, ATTENTION = 0, 1, 2, 3

Row = dict[str, Any]


class Group(click.Group):
    """Commands in the order of the work, and errors as exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are defined."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Every error that is no bug is one line on standard error and an exit code."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail("\n".join(error.faults), WRONG)
        except IsthmusError as error:
            fail(str(error) or type(error).__name__, FAILED)


def fail(text: str, code: int) -> NoReturn:
    click.echo(text, err=True)
    sys.exit(code)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Joins service registries: keeps them in step, shows what it would do and why, and never deletes what is alive."""


def command(name: str, example: str, exits: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with an example in its help, and `exits`: what its exit codes mean, which are its return value."""

    def wrap(function: Callable[..., int | None]) -> click.Command:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> None:
            sys.exit(function(*args, **kwargs) or OK)

        return main.command(name, epilog=f"Exit codes: {exits}.\n\n\b\nExample:\n  {example}")(run)

    return wrap


FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
OUTPUT = click.option(
    "-o", "output", type=click.Choice(["table", "json"]), default="table", help="For people, or JSON."
)


def load(file: Path, *, ephemeral: bool = False) -> Configuration:
    configuration = config.load(file, ephemeral=ephemeral)
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    return configuration


def folder(configuration: Configuration) -> Path:
    if configuration.bridge.state is None:
        raise ConfigError(f"{configuration.path}: bridge.state is missing; this command needs it")
    return Path(configuration.bridge.state)


def who() -> str:
    return f"uid={os.getuid()} user={getpass.getuser()}"


def duration(text: str) -> float:
    try:
        return document.seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(rows: Sequence[Row], columns: Sequence[str], empty: str = "") -> None:
    """Columns as wide as their widest cell; the last one runs free."""
    if not rows:
        if empty:
            click.echo(empty)
        return
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    heads = [column.upper().replace("_", " ") for column in columns]
    widths = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    for line in [heads, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
    if isinstance(value, dict):
        return " ".join(f"{key}={one}" for key, one in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_cell, value)) or "-"
    return str(value)


def brief(instance: Row | None) -> str:
    if not instance:
        return "-"
    ports = ",".join(str(port["number"]) for port in instance.get("ports", []))
    health = instance.get("health", "")
    return f"{instance['address']}:{ports}" + (f" {health}" if health else "")


def clock_time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def timed(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "at": clock_time(row["at"])} for row in rows]


def print_holds(rows: Sequence[Row]) -> None:
    shown = [
        {**row, "released": "by approve" if row["due_in"] is None else f"in {row['due_in']:.0f} s, if confirmed"}
        for row in rows
    ]
    print_table(
        shown, ("id", "link", "scope", "cause", "services", "instances", "age", "released", "rule"), "nothing is held"
    )
    for row in rows:
        for link, service, instance in row["items"][:20]:
            click.echo(f"  {row['id']}  {link}  {service}/{instance}")
        if len(row["items"]) > 20:
            click.echo(f"  {row['id']}  and {len(row['items']) - 20} more; -o json has all")


def print_plan(found: dict[str, list[Row]], empty: str = "nothing to change") -> None:
    rows = [{**row, "after": brief(row["after"]), "before": brief(row["before"])} for row in found["changes"]]
    print_table(rows, ("action", "link", "service", "instance", "cause", "before", "after", "held"), empty)
    if found["holds"]:
        click.echo()
        print_holds(found["holds"])
    if found["not_written"]:
        click.echo()
        print_table(found["not_written"], ("state", "to", "service", "instance", "age", "reason"))
