"""The command that fills an empty state folder from another host."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from bridge.cli.file import folder as folder_of
from bridge.cli.file import load
from bridge.cli.output import FILE, OK, OUTPUT, command, print_json, say
from bridge.config.bridge_block import address
from bridge.errors import ConfigError
from bridge.state import folder as state

PORT = ":9797"  # where `init` has a daemon listen


@command("seed", "isthmus seed --from vm-1", "0, 1 that daemon does not answer, 2 wrong usage or file, or not empty")
@FILE
@click.option("--from", "host", required=True, help="HOST or HOST:PORT: `bridge.listen` of a daemon of this bridge.")
@OUTPUT
def seed(file: Path | None, host: str, output: str) -> int:
    """Fills an empty state folder from another daemon of the bridge. With what it last knew, decided and served.

    Both need the same token in `bridge.token_file`. Where `bridge.seat` names such a daemon, `run` does this by itself.
    """
    from bridge.daemon import seeding

    configuration = load(file)
    bridge, folder = configuration.bridge, folder_of(configuration)
    if bridge.token_file is None:
        raise ConfigError("bridge.token_file is not set: a seed is given to whoever shows that token")
    with state.opened(folder, bridge.id):  # no daemon runs there
        if not seeding.is_empty(folder):
            raise ConfigError(f"{folder} is not empty: what a host knows is not written over")
    name, number = address(host if ":" in host and not host.endswith("]") else f"{host}{PORT}")
    where = f"[{name}]" if ":" in name else name
    token = Path(bridge.token_file).read_text().strip()
    found = asyncio.run(seeding.fetch(f"http://{where}:{number}{seeding.PATH}", token))
    names = seeding.unpack(folder, found, bridge.id)
    if output == "json":
        print_json({"folder": str(folder), "from": host, "files": names})
        return OK
    say(f"{folder} has {len(names)} files from {host}: {', '.join(names)}")
    return OK
