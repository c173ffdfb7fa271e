"""The commands for exports: who is answered there, and the files that data planes are started with."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.adapter import Bootstraps
from bridge.admin.client import call
from bridge.cli.file import known_registry, load, socket
from bridge.cli.output import ATTENTION, FILE, OK, OUTPUT, command, gap, print_json, print_table, say, say_block, span
from bridge.config import kinds
from bridge.errors import ConfigError


@command("clients", "isthmus clients mesh", "0 all accept what they are told, 3 one does not, 1 no daemon, 2 wrong use")
@FILE
@click.argument("registry", required=False)
@OUTPUT
def clients(file: Path | None, registry: str | None, output: str) -> int:
    """Shows the data planes that exports answer. What each accepted and refused, and how long it is behind."""
    rows = [row for row in call(socket(file), "clients") if registry in (None, row["registry"])]
    if output == "json":
        print_json(rows)
    else:
        shown = [
            {
                **row,
                "seen": span(row["seen_ago"]),
                "behind": span(row["behind"]) if row["behind"] >= 1 else "",
                "sent": ", ".join(f"{kind} {what}" for kind, what in row["sent"].items()),
                "refused": len(row["refused"]) or "",
            }
            for row in rows
        ]
        print_table(shown, ("registry", "client", "address", "network", "seen", "behind", "sent", "refused"))
        for row in rows:
            for name, reason in row["refused"].items():
                gap()
                say(f"{row['registry']}: {row['client']} refuses {name}: {reason}")
    return ATTENTION if any(row["refused"] for row in rows) else OK


@command("bootstrap", "isthmus bootstrap envoy mesh --admin 127.0.0.1:9901", "0, 2 wrong usage or file")
@FILE
@click.argument("client")
@click.argument("registry")
@click.option("--node", help="The name that the client has for the export.")
@click.option("--server", help="Where the client dials the export, HOST:PORT; by default where it listens.")
@click.option("--admin", help="Envoy: where its own pages are, HOST:PORT.")
@click.option("--variant", type=click.Choice(["delta", "world"]), default="delta", show_default=True, help="Envoy.")
@click.option("--network", help="The network that the client is in, where it is not the export's.")
@click.option("--region", help="The region that the client is in.")
@click.option("--zone", help="The zone that the client is in.")
@click.option("--ca", help="A path at the client: what signs the export's certificate.")
@click.option("--cert", help="A path at the client: its own certificate.")
@click.option("--key", help="A path at the client: the key of its certificate.")
def bootstrap(file: Path | None, client: str, registry: str, **said: str | None) -> int:
    """Prints the file that a data plane is started with. `envoy -c FILE`, or GRPC_XDS_BOOTSTRAP=FILE."""
    configuration = load(file, ephemeral=True)
    block = configuration.registries[known_registry(configuration, registry)]
    made = kinds.make(registry, block.kind, block.options, None)
    if not isinstance(made, Bootstraps):
        raise ConfigError(f"{registry} is {block.kind}: its clients need no file")
    say_block(made.bootstrap(client, {key: text for key, text in said.items() if text}).rstrip("\n"), indent="")
    return OK
