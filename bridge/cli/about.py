"""The commands in which the program speaks of itself."""

from __future__ import annotations

import click

from bridge import __version__
from bridge.cli.output import OK, OUTPUT, command, print_json, say
from bridge.config import json_schema, kinds
from bridge.model import LEDGER_FORMAT
from bridge.report.contract import contract
from bridge.state import folder as state


@command("schema", "isthmus schema > isthmus.schema.json", "0")
@click.option("--events", is_flag=True, help="Of what is published on Kafka: an AsyncAPI document.")
def schema(events: bool) -> int:
    """Prints the JSON Schema of the configuration. Editors complete and check the file with it."""
    print_json(contract(kinds.adapter("kafka").EVENTS) if events else json_schema.schema())
    return OK


@command("version", "isthmus version -o json", "0")
@OUTPUT
def version(output: str) -> int:
    """Prints the versions. Of the program, of the state folder's format and of the ledger's."""
    rows = {"program": __version__, "state": state.FORMAT, "ledger": LEDGER_FORMAT}
    if output == "json":
        print_json(rows)
    else:
        say(f"isthmus {__version__} (state format {rows['state']}, ledger format {rows['ledger']})")
    return OK
