"""The commands with which an operator decides what may go and what is not written for now."""

from __future__ import annotations

from pathlib import Path

import click

from bridge.admin.client import call
from bridge.cli import freezing
from bridge.cli.file import folder, load, outline, socket
from bridge.cli.output import (
    BY,
    FAILED,
    FILE,
    OK,
    OUTPUT,
    Row,
    command,
    duration,
    fail,
    print_answer,
    print_approved,
    print_holds,
    print_json,
    print_plan,
    print_table,
    say,
    warned,
    warned_of,
)
from bridge.config.load import Outline
from bridge.config.schema import Configuration
from bridge.errors import ConfigError
from bridge.state import folder as state


@command("holds", "isthmus holds", "0, 1 no daemon, 2 wrong usage or file")
@FILE
@OUTPUT
def holds(file: Path | None, output: str) -> int:
    """Lists what the guard holds back. With cause and rule, when it goes, and the id that `approve` takes."""
    path = socket(file)
    rows = call(path, "holds")
    if output == "json":
        print_json(rows)
    else:
        print_holds(rows)
        for row in call(path, "status")["approved"]:
            print_approved(row)
    return OK


@command(
    "approve",
    "isthmus approve 4f2a90c1d3e7 --reason 'decommissioned, CHG-1234'",
    "0, 1 no daemon, or nothing is held under that id (any more), 2 wrong usage or file, 3 approved on this host only",
)
@FILE
@click.argument("id")
@click.option("--reason", required=True, help="Kept in the journal.")
@click.option("--for", "lasting", default="15m", show_default=True, help="What has not gone by then is held again.")
@BY
@OUTPUT
def approve(file: Path | None, id: str, reason: str, lasting: str, by: str | None, output: str) -> int:
    """Lets a held set go, once. Exactly the one that `holds` showed under that id; refused if it has grown."""
    done = call(socket(file), "approve", by=by, id=id, reason=reason, lasting=duration(lasting))
    if not done["items"]:
        fail(f"nothing of {id} is held any more: it has gone, or its source has it again", FAILED)
    print_answer(output, done["items"], lambda: say(f"approved {len(done['items'])} removals"))
    return warned(done["here_only"])


@command(
    "accept",
    "isthmus accept inventory --reason 'restored from the backup of 3 a.m., CHG-1234'",
    "0, 1 no daemon, nothing is doubted, or not confirmed, 2 wrong usage or file, 3 accepted on this host only",
)
@FILE
@click.argument("subject", metavar="REGISTRY[/SCOPE]")
@click.option("--reason", required=True, help="Kept in the journal.")
@click.option("--as-empty", "empty", is_flag=True, help="It is gone for good: what was copied from it stays.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@BY
@OUTPUT
def accept(file: Path | None, subject: str, reason: str, empty: bool, yes: bool, by: str | None, output: str) -> int:
    """Believes a new life of a registry. Shows first what that takes away, and approves exactly that."""
    found = call(socket(file), "accept", by=by, subject=subject, reason=reason, empty=empty)
    if output != "json":
        for row in found["scopes"]:
            say(f"{row['registry']}{'/' if row['scope'] else ''}{row['scope']}: {row['doubt']}")
        print_table(found["removes"], ("service", "instance", "link", "to"), "nothing is taken away")
        if empty:
            say(f"{found['keeps']} entries stay; `isthmus purge` removes them")
    if not yes and not click.confirm("accept it?", err=True):
        return FAILED
    done = call(socket(file), "accept", by=by, subject=subject, reason=reason, empty=empty, sure=found["id"])
    print_answer(output, done, lambda: say(f"accepted: {len(done['removes'])} removals"))
    return warned(done["here_only"])


@command(
    "expect",
    "isthmus expect pay-api --lose 200 --for 2h --reason 'moves to 20 pods, CHG-1234'",
    "0, 1 no daemon, or nothing is called so, 2 wrong usage or file, 3 stated on this host only",
)
@FILE
@click.argument("subject", metavar="SERVICE|LINK|REGISTRY[/SCOPE]")
@click.option("--lose", type=click.IntRange(min=1), required=True, help="So many serving instances, at each target.")
@click.option("--for", "lasting", required=True, help="So long, e.g. 2h.")
@click.option("--reason", required=True, help="Kept in the journal.")
@BY
@OUTPUT
def expect(file: Path | None, subject: str, lose: int, lasting: str, reason: str, by: str | None, output: str) -> int:
    """States a loss before it happens. It counts against the number, not against the limits of the guard."""
    stated = call(socket(file), "expect", by=by, subject=subject, lose=lose, lasting=duration(lasting), reason=reason)
    print_answer(output, stated, lambda: say(f"{subject} may lose {lose}, but never its last serving instance"))
    return warned(stated["here_only"])


@command(
    "freeze",
    "isthmus freeze inventory-to-core --reason 'maintenance' --for 2h",
    "0, 1 NOT frozen: somebody may write on, which is said, 2 wrong usage or file, 3 frozen on this host only, "
    "4 not permitted",
)
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="Every link.")
@click.option("--reason", required=True, help="Kept in the journal, and shown by `status`.")
@click.option("--for", "lasting", help="So long, e.g. 2h; else until `unfreeze`.")
@BY
@OUTPUT
def freeze(
    file: Path | None,
    link: str | None,
    everything: bool,
    reason: str,
    lasting: str | None,
    by: str | None,
    output: str,
) -> int:
    """Stops the writes of a link. Leases go on. Works without the daemon, survives restart and reload."""
    configuration = outline(file)
    key = link_key(configuration, link, everything)
    seconds = None if lasting is None else duration(lasting)
    place = folder(configuration)
    found = freezing.freeze(configuration, lambda: load(file), place, key, reason, by, seconds)
    return _told(found, "frozen", key, output)


@command(
    "unfreeze",
    "isthmus unfreeze inventory-to-core",
    "0, 1 not frozen, or a writer has not been told, 2 wrong usage or file, 3 unfrozen on this host only, "
    "4 not permitted",
)
@FILE
@click.argument("link", required=False)
@click.option("--all", "everything", is_flag=True, help="The freeze of every link.")
@BY
@OUTPUT
def unfreeze(file: Path | None, link: str | None, everything: bool, by: str | None, output: str) -> int:
    """Resumes the writes of a link. Shows what is pending: it is planned afresh, under the guard."""
    configuration = outline(file)
    key = link_key(configuration, link, everything)
    found = freezing.unfreeze(configuration, lambda: load(file), folder(configuration), key, by)
    code = _told(found, "unfrozen", key, output)
    if output == "table" and found["pending"] is None:
        say("no daemon runs; `isthmus plan` shows what is pending")
    elif output == "table":
        print_plan(found["pending"])
    return code


def _told(found: Row, what: str, key: str, output: str) -> int:
    """Says where a decision is followed, and where it is not."""
    if output == "json":
        print_json(found)
    unfollowed = [row["why"] for row in found["destinations"] if not row["followed"]]
    if found["unsaved"]:
        say(f"it counts, and is not on the disk: {found['unsaved']}", err=True)
    for why in unfollowed:
        say(f"NOT {what}: {why}", err=True)
    code = warned_of(found["destinations"])
    if output == "table" and not unfollowed:
        say(f"{what}: {freezing.named(key)}")
    return FAILED if unfollowed else code


def link_key(configuration: Configuration | Outline, link: str | None, everything: bool) -> str:
    """The key of a freeze: the link, which must be one of the file, or `*` for all; raises UsageError, ConfigError."""
    if everything == (link is not None):
        raise click.UsageError("name a link, or --all")
    names = {one if isinstance(one, str) else one.name for one in configuration.links}
    if link is not None and link not in names:
        raise ConfigError(f"{link!r} is no link of {configuration.path}; it has {', '.join(sorted(names))}")
    return state.EVERY_LINK if link is None else link
