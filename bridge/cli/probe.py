"""`isthmus probe`: connects from where it runs to what a link would write, and says what cannot be reached."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from bridge.cli.file import load, write_json
from bridge.cli.listening import listening as listen
from bridge.cli.offline import looking, unreached
from bridge.cli.output import ATTENTION, FAILED, FILE, OK, OUTPUT, Row, command, duration, print_json, print_table, say
from bridge.errors import ConfigError
from bridge.report import targets as listing
from bridge.report.targets import Target, Targets, spread, targets_of

PATIENCE = 3.0  # seconds that an address may take to answer

PATH = click.Path(dir_okay=False, path_type=Path)


@command(
    "probe",
    "isthmus probe vms-to-prod --rate 20",
    "0 all are reached, 3 some are not, 1 a registry is out of reach, 2 wrong usage or file",
)
@FILE
@click.argument("link", required=False)
@click.option("--rate", type=click.FloatRange(0.1, 1000), default=20.0, show_default=True, help="Connections a second.")
@click.option(
    "--limit", type=click.IntRange(1), default=500, show_default=True, help="So many at most, of every service some."
)
@click.option("--write-targets", type=PATH, help="Connects to nothing, and makes a file for --targets elsewhere.")
@click.option("--targets", type=PATH, help="Such a file: it needs neither configuration nor secrets on this host.")
@click.option("--report", type=PATH, help="A file that gets the result, as JSON.")
@click.option("--listening", is_flag=True, help="Connects to nothing: who is connected to the targets of this machine.")
@click.option("--for", "lasting", default="0s", show_default=True, help="With --listening: looks so long, e.g. 24h.")
@click.option("--ignore", multiple=True, metavar="GLOB", help="With --listening: addresses of what checks and scrapes.")
@OUTPUT
def probe(
    file: Path | None,
    link: str | None,
    rate: float,
    limit: int,
    write_targets: Path | None,
    targets: Path | None,
    report: Path | None,
    listening: bool,
    lasting: str,
    ignore: tuple[str, ...],
    output: str,
) -> int:
    """Connects to what LINK would write. Run it where the consumers are: nothing is sent, each connection is closed.

    It finds what no registry knows: a firewall, a route that is missing, a network that cannot be crossed. With
    --listening it looks at the connections of a machine that is to be left: 3, too, where somebody is connected.
    """
    if listening:
        if targets is None or link is not None or write_targets is not None:
            raise ConfigError(
                "--listening takes a file of targets: isthmus migrate targets NAME > FILE; --targets FILE"
            )
        return listen(listing.read(targets), report, ignore, duration(lasting), output)
    if ignore or lasting != "0s":
        raise ConfigError("--ignore and --for go with --listening")
    if (link is None) == (targets is None) or (write_targets is not None and (targets or report) is not None):
        raise ConfigError("name a link, perhaps with --write-targets, or a file by --targets")
    missing: list[str] = []
    if targets is not None:
        found = listing.read(targets)
    else:
        found, missing = asyncio.run(_would_write(file, link or ""))
    for text in missing:
        say(f"out of reach: {text}", err=True)
    if write_targets is not None:
        write_json(write_targets, found)
        say(f"{len(found.targets)} targets of {found.link} in {write_targets}")
        return FAILED if missing else OK
    result = _result(found, asyncio.run(dialled(spread(found.targets, limit), rate)))
    if report is not None:
        write_json(report, result)
    _print(result, output)
    return FAILED if missing else ATTENTION if result["unreached"] else OK


async def _would_write(file: Path | None, name: str) -> tuple[Targets, list[str]]:
    configuration = load(file, ephemeral=True)
    link = next((one for one in configuration.links if one.name == name), None)
    if link is None:
        raise ConfigError(f"{name!r} is no link; there are {', '.join(one.name for one in configuration.links)}")
    async with looking(configuration) as (engine, _):
        ends = {*link.registries, *link.from_, link.to}
        return targets_of(engine, link), [text for text in unreached(engine) if text.split(":")[0] in ends]


async def dialled(pairs: Sequence[list[Target]], rate: float) -> list[tuple[list[Target], str]]:
    """Connects to each, so many a second; why it cannot be reached, "" if it can."""

    async def one(number: int, targets: list[Target]) -> tuple[list[Target], str]:
        await asyncio.sleep(number / rate)
        try:
            async with asyncio.timeout(PATIENCE):
                _, writer = await asyncio.open_connection(targets[0].address, targets[0].port)
        except TimeoutError:
            return targets, f"no answer in {PATIENCE:g} s"
        except OSError as error:
            return targets, os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        writer.close()
        return targets, ""

    return await asyncio.gather(*(one(number, targets) for number, targets in enumerate(pairs)))


def _result(found: Targets, tried: Sequence[tuple[list[Target], str]]) -> Row:
    there = {(one.address, one.port) for one in found.targets}
    lost = [{**msgspec.to_builtins(one), "reason": reason} for targets, reason in tried if reason for one in targets]
    return {
        "link": found.link,
        "from": socket.gethostname(),
        "at": time.time(),
        "addresses": len(there),
        "tried": len(tried),
        "reached": sum(not reason for _, reason in tried),
        "answered": sorted(f"{one[0].address}:{one[0].port}" for one, reason in tried if not reason),
        "unreached": sorted(lost, key=lambda row: (row["service"], row["instance"], row["port"])),
    }


def _print(result: Row, output: str) -> None:
    if output == "json":
        print_json(result)
        return
    print_table(result["unreached"], ("service", "instance", "address", "port", "reason"), more=("network",))
    left = result["addresses"] - result["tried"]
    more = f"; {left} more were not tried (--limit)" if left else ""
    say(f"{result['reached']} of {result['tried']} addresses reached from {result['from']}{more}")
