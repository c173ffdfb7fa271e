"""The command `isthmus`: a table of its commands, each imported when it is used, and its errors as exit codes."""

from __future__ import annotations

import importlib
from typing import Any

import click

from bridge.admin.protocol import NOT_PERMITTED, RefusedError
from bridge.cli.output import COMMANDS, FAILED, WRONG, fail
from bridge.errors import ConfigError, IsthmusError, reason

# By name, in the order of --help; a command starts in half the time where the others are not imported.
MODULES = {
    "init": "bridge.cli.begin",
    "run": "bridge.cli.run",
    "seed": "bridge.cli.seeding",
    "check": "bridge.cli.query",
    "plan": "bridge.cli.query",
    "diff": "bridge.cli.query",
    "services": "bridge.cli.query",
    "explain": "bridge.cli.query",
    "probe": "bridge.cli.probe",
    "status": "bridge.cli.status",
    "members": "bridge.cli.status",
    "group": "bridge.cli.group",
    "clients": "bridge.cli.exports",
    "bootstrap": "bridge.cli.exports",
    "log": "bridge.cli.log",
    "events": "bridge.cli.events",
    "ack": "bridge.cli.status",
    "holds": "bridge.cli.operate",
    "approve": "bridge.cli.operate",
    "accept": "bridge.cli.operate",
    "expect": "bridge.cli.operate",
    "set": "bridge.cli.overriding",
    "unset": "bridge.cli.overriding",
    "overrides": "bridge.cli.overriding",
    "drain": "bridge.cli.overriding",
    "undo": "bridge.cli.undoing",
    "freeze": "bridge.cli.operate",
    "unfreeze": "bridge.cli.operate",
    "migrate": "bridge.cli.migrate",
    "purge": "bridge.cli.handover",
    "adopt": "bridge.cli.handover",
    "release": "bridge.cli.handover",
    "footprint": "bridge.cli.leaving",
    "leave": "bridge.cli.leaving",
    "completion": "bridge.cli.begin",
    "schema": "bridge.cli.about",
    "version": "bridge.cli.about",
}


class Group(click.Group):
    """Commands in the order of the work, and errors as exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the module that defines it; None where there is no such command."""
        if cmd_name not in MODULES:
            return None
        importlib.import_module(MODULES[cmd_name])
        return COMMANDS[cmd_name]

    def invoke(self, ctx: click.Context) -> Any:
        """Every error that is no bug is one line on standard error and an exit code."""
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            fail("\n".join(error.faults), WRONG)
        except RefusedError as error:
            fail(str(error), NOT_PERMITTED)
        except IsthmusError as error:
            fail(reason(error), FAILED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """Joins service registries: keeps them in step, shows what it would do and why, and never deletes what is alive."""


if __name__ == "__main__":
    main(prog_name="isthmus")
