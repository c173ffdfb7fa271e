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


@command("schema", "isthmus schema > isthmus.schema.json", "0")
def schema() -> int:
    """Prints the JSON Schema of the configuration. Editors complete and check the file with it."""
    print_json(config.schema())
    return OK


@command("version", "isthmus version -o json", "0")
@OUTPUT
def version(output: str) -> int:
    """Prints the versions. Of the program, of the state folder's format and of the ledger's."""
    rows = {"program": __version__, "state": state.FORMAT, "ledger": LEDGER_FORMAT}
    if output == "json":
        print_json(rows)
    else:
        click.echo(f"isthmus {__version__} (state format {rows['state']}, ledger format {rows['ledger']})")
    return OK


__all__ = ["deciding", "looking", "main"]  # importing them defines their commands

if __name__ == "__main__":
    main(prog_name="isthmus")
