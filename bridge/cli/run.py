"""The command that runs the daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from bridge.cli.file import found
from bridge.cli.output import (
    FAILED,
    FILE,
    WRONG,
    command,
)
from bridge.daemon.descriptors import raise_descriptors
from bridge.daemon.logs import collect, configure
from bridge.errors import ConfigError, IsthmusError, reason

log = logging.getLogger("isthmus.run")


@command(
    "run",
    "isthmus run",
    "0 stopped in good order, 1 failed, 2 wrong usage or file; with --once also 3 something is held or parked",
)
@FILE
@click.option(
    "--once", is_flag=True, help="Until every link is in step, then stop; exit 3 if anything is held or parked."
)
@click.option("--ephemeral", is_flag=True, help="Without a state folder: nothing is remembered over a restart.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="Of the lines on standard error; debug has one for every change.",
)
def run(file: Path | None, once: bool, ephemeral: bool, log_level: str) -> int:
    """Runs the daemon. It keeps every link in step until SIGTERM; SIGHUP has it take a changed file over."""
    from bridge.daemon.start import start  # the other commands start faster without it

    path = found(file)
    configure(log_level)
    collect()
    raise_descriptors()
    try:
        return start(path, once=once, ephemeral=ephemeral)
    except IsthmusError as error:
        for fault in error.faults if isinstance(error, ConfigError) else (reason(error),):
            log.critical("refused file=%s fault=%r", path, fault)
        return WRONG if isinstance(error, ConfigError) else FAILED
