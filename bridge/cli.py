"""The command `isthmus`: one function a command, in `looking` and `deciding`, and what it says about itself here."""

from __future__ import annotations

import click

from bridge import looking, deciding  # isort: skip  # in the order of --help
from bridge import __version__, config, state
from bridge.model import LEDGER_FORMAT
from bridge.terminal import (
    OK,
    OUTPUT,
    command,
    main,
    print_json,
)


@command("schema", "isthmus schema > isthmus.schema.json")
def schema() -> int:
    """The JSON Schema of the configuration, for editors."""
    print_json(config.schema())
    return OK


@command("version", "isthmus version -o json")
@OUTPUT
def version(output: str) -> int:
    """The versions of the program, the state folder's format and the ledger's."""
    rows = {"program": __version__, "state": state.FORMAT, "ledger": LEDGER_FORMAT}
    if output == "json":
        print_json(rows)
    else:
        click.echo(f"isthmus {__version__} (state format {rows['state']}, ledger format {rows['ledger']})")
    return OK


__all__ = ["deciding", "looking", "main"]  # importing them defines their commands

if __name__ == "__main__":
    main()
