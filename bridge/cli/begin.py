"""The commands for a beginning: a first file, and completion for a shell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import yaml
from click.shell_completion import get_completion_class

from bridge.cli.file import PLACES
from bridge.cli.output import FAILED, OK, command, fail, say
from bridge.config import load as config
from bridge.config.document import Document
from bridge.config.kinds import kinds

# What a place means for a kind of registry: the key of its block, and whether that is a list.
PLACE = {"file": ("path", False), "etcd": ("endpoints", True), "zookeeper": ("hosts", True), "eureka": ("urls", True)}
LAYOUTS = {"etcd": "kratos", "zookeeper": "curator"}  # offered where none is given
HEAD = """\
# A first file of Isthmus. `policy: observe` writes nothing: look at `isthmus plan`, then say `sync`.
# Every key: docs/configuration.md. In an editor: isthmus schema > isthmus.schema.json
"""


@command(
    "init",
    "isthmus init --id vm-to-k8s --from inventory=file:./inventory --to core=etcd/kratos:http://127.0.0.1:2379",
    "0, 1 there is such a file already, 2 wrong usage, or a fault in what was given",
)
@click.option("-f", "--file", "file", type=click.Path(dir_okay=False, path_type=Path), default=PLACES[0])
@click.option("--id", "id", help="The bridge's name: the owner of every entry that it writes.")
@click.option("--from", "source", help="The registry to read: NAME=KIND[/LAYOUT]:PLACE.")
@click.option("--to", "target", help="The registry to write: NAME=KIND[/LAYOUT]:PLACE.")
@click.option("--state", default="/var/lib/isthmus", show_default=True, help="The state folder.")
@click.option("--services", default="*", show_default=True, help="Which services: a glob.")
def init(file: Path, id: str | None, source: str | None, target: str | None, state: str, services: str) -> int:
    """Writes a first file, from flags or a few answers. Its link observes: nothing is written until it says sync."""
    if file.exists():
        fail(f"{file} is there already; name another with -f, or edit it", FAILED)
    form = "NAME=KIND[/LAYOUT]:PLACE"
    id = id or _asked("The bridge's name", "--id", "vm-to-k8s")
    read = _registry(source or _asked(f"The registry to read, as {form}", "--from", "inventory=file:./inventory"))
    written = _registry(
        target or _asked(f"The registry to write, as {form}", "--to", "core=etcd/kratos:http://127.0.0.1:2379")
    )
    link = {"from": read[0], "to": written[0], "policy": "observe", "services": {"include": [services]}}
    blocks = {
        "bridge": {"id": id, "state": state, "listen": "127.0.0.1:9797"},
        "registries": dict((read, written)),
        "links": [link],
    }
    text = HEAD + yaml.safe_dump(blocks, sort_keys=False)
    document = Document(str(file), text)
    checked = config.parse(file, document, {}, ephemeral=False)  # raises ConfigError before anything is written
    file.write_text(text)
    for warning in checked.warnings:
        say(f"warning: {warning}", err=True)
    option = "" if file == PLACES[0] else f" -f {file}"
    say(f"{file} is written. Next: isthmus check{option}; isthmus plan{option}; isthmus run{option}")
    return OK


def _asked(question: str, option: str, example: str) -> str:
    if not sys.stdin.isatty():
        raise click.UsageError(f"missing {option}, e.g. {option} {example}")
    return str(click.prompt(question, default=example))


def _registry(text: str) -> tuple[str, dict[str, Any]]:
    """ "core=etcd/kratos:http://127.0.0.1:2379" -> ("core", its block); raises UsageError."""
    name, equal, rest = text.partition("=")
    kind, colon, place = rest.partition(":")
    kind, slash, layout = kind.partition("/")
    if not (name and equal and colon and place) or kind not in PLACE:
        known = ", ".join(sorted(PLACE))
        more = f"; {kind} needs more than a place: write it into a file" if kind in kinds() - PLACE.keys() else ""
        raise click.UsageError(f"{text!r} is not NAME=KIND[/LAYOUT]:PLACE, KIND one of {known}{more}")
    key, many = PLACE[kind]
    block: dict[str, Any] = {"kind": kind, key: place.split(",") if many else place}
    if slash or kind in LAYOUTS:
        block["layout"] = layout or LAYOUTS[kind]
    return name, block


@command("completion", 'eval "$(isthmus completion bash)"', "0, 2 wrong usage")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Prints what a shell needs to complete commands. Put it into its start file, as the example says."""
    from bridge.cli.main import main  # it names this module

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "isthmus", "_ISTHMUS_COMPLETE").source())
    return OK
