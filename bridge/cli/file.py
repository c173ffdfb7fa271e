"""Which configuration file a command reads, and the parts of it that need no adapter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from bridge.config import load as config
from bridge.config.load import Outline
from bridge.config.schema import Configuration
from bridge.errors import ConfigError, Unavailable
from bridge.state.files import replace, why

VARIABLE = "ISTHMUS_FILE"
PLACES = (Path("isthmus.yaml"), Path("/etc/isthmus/isthmus.yaml"))  # where there is no -f and no $ISTHMUS_FILE
SUFFIXES = (".yaml", ".yml")


class Command(click.Command):
    """A command that reads a file: one that is given as an argument, as of old, is answered with the new form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raises UsageError for `isthmus plan x.yaml`."""
        if all(one.name != "file" for one in self.params):
            return super().parse_args(ctx, args)
        for before, word in zip(["", *args], args, strict=False):
            if word.endswith(SUFFIXES) and not word.startswith("-") and not before.startswith("-"):
                rest = " ".join(["", *(one for one in args if one is not word)])
                raise click.UsageError(f"the file is an option now: isthmus {ctx.info_name} -f {word}{rest}", ctx)
        return super().parse_args(ctx, args)


def found(given: Path | None) -> Path:
    """The file of `-f`, else $ISTHMUS_FILE, else ./isthmus.yaml, else /etc/isthmus/isthmus.yaml.

    One that was not given is named on standard error. Raises ConfigError where there is none.
    """
    if given is not None:
        return given
    named = os.environ.get(VARIABLE, "")
    path = Path(named) if named else next((one for one in PLACES if one.is_file()), None)
    if path is None:
        raise ConfigError(
            f"no configuration file: no -f FILE, no ${VARIABLE}, no {PLACES[0]} here, and no {PLACES[1]}; "
            "`isthmus init` writes a first one"
        )
    click.echo(f"file: {path}" + (f" (${VARIABLE})" if named else ""), err=True)
    return path


def load(given: Path | None, *, ephemeral: bool = False) -> Configuration:
    """The whole file, judged, its warnings on standard error. `ephemeral`: bridge.state may be missing."""
    configuration = config.load(found(given), ephemeral=ephemeral)
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}", err=True)
    return configuration


def outline(given: Path | None) -> Outline:
    """What a command needs that only asks the daemon: no adapter is imported, no fault of a registry stops it."""
    return config.outline(found(given))


def folder(configuration: Configuration | Outline) -> Path:
    """The state folder; raises ConfigError where the file names none."""
    if configuration.bridge.state is None:
        raise ConfigError(f"{configuration.path}: bridge.state is missing; this command needs it")
    return Path(configuration.bridge.state)


def socket(given: Path | None) -> Path:
    """Where the daemon of a file answers."""
    return folder(outline(given)) / "admin.sock"


def known_registry(configuration: Configuration, name: str) -> str:
    """The name, if it is a registry of the file; else raises ConfigError with those that are."""
    if name not in configuration.registries:
        known = ", ".join(configuration.registries)
        raise ConfigError(f"{name!r} is no registry of {configuration.path}; it has {known}")
    return name


def write_json(path: Path, value: Any) -> None:
    """A file for another command or host, whole or not at all. Raises Unavailable."""
    try:
        replace(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n")
    except OSError as error:
        raise Unavailable(f"{path}: cannot be written: {why(error)}") from None
