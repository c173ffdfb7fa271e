"""The formats of a state folder: whose it is, which one it has, and how one of format 1 becomes one of format 2."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bridge import __version__
from bridge.errors import ConfigError
from bridge.formats import Formatted, refuse_newer
from bridge.state.decisions import APPROVED, EVERY_LINK, Decision, Item, Kind
from bridge.state.files import replace, sync_folder

T = TypeVar("T")

FORMAT = 2  # of the folder as a whole
DEED = "bridge.json"
COPY = "format-1"  # the folder in which the files of format 1 are kept
OLD = ("freezes.json", "approvals.json", "shown.json")  # files that format 2 no longer has
KEPT = (*OLD, "told.json", DEED)


class Deed(msgspec.Struct, frozen=True):
    """Whose folder this is, by which rules it is laid out, and which version of this program laid it out so."""

    format: int
    bridge: str
    version: str = ""


class Told(msgspec.Struct, frozen=True):
    """The decisions that all daemons of this bridge know, by name; `turn` as in `bridge.destination.note`.

    `heard`: the times of what operators did lately at a writer, which is in the journal here.
    """

    turn: int = 0
    decisions: dict[str, Decision] = {}
    heard: tuple[float, ...] = ()


class Freeze1(msgspec.Struct, frozen=True, kw_only=True):
    """Format 1: a freeze, by its link."""

    reason: str
    by: str
    since: float
    until: float | None = None


class Set1(msgspec.Struct, frozen=True, kw_only=True):
    """Format 1: an approval, or a set shown, by its hash."""

    items: tuple[Item, ...]
    at: float
    reason: str = ""
    by: str = ""


class _Told(msgspec.Struct, frozen=True):
    """Format 1: what all daemons know of freezes. `decisions`: format 2, where a conversion was cut off behind it."""

    turn: int = 0
    freezes: dict[str, Freeze1] = {}
    decisions: dict[str, Decision] = {}


def read_deed(folder: Path) -> Deed | None:
    """None: the folder is nobody's. Raises ConfigError where it is not ours to use, or of a newer version."""
    try:
        deed = msgspec.json.decode((folder / DEED).read_bytes(), type=Deed)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder}/{DEED}: is not ours: {error}; name another folder in bridge.state") from None
    if deed.format < 1:
        raise ConfigError(f"{folder}/{DEED}: no state folder has the format {deed.format}; put the file right")
    said = Formatted(deed.format, deed.version)
    refuse_newer(f"{folder}: has", said, FORMAT, ", or name another folder in bridge.state")
    return deed


def write_deed(folder: Path, bridge: str) -> Deed:
    """The folder is that bridge's from now on, in the newest format."""
    deed = Deed(FORMAT, bridge, __version__)
    replace(folder / DEED, msgspec.json.encode(deed) + b"\n")
    return deed


def convert(folder: Path, deed: Deed) -> Deed:
    """Brings a folder of an older format to the newest, once, beside a copy of what it replaces. Raises OSError.

    Each step may be the last one before a crash: until the deed says format 2 the old files count, and an older program
    can run; after that it refuses the folder.
    """
    if deed.format < FORMAT:
        _copy(folder)
        decisions = decisions_of_1(
            _read(folder / "freezes.json", dict[str, Freeze1]),
            _read(folder / "approvals.json", dict[str, Set1]),
            _read(folder / "shown.json", dict[str, Set1]),
        )
        told = _read(folder / "told.json", dict[str, _Told])
        _write(folder / "decisions.json", decisions)
        if isinstance(told, dict):
            known = {key: Told(one.turn, one.decisions | freezes_of_1(one.freezes)) for key, one in told.items()}
            _write(folder / "told.json", known)
        deed = write_deed(folder, deed.bridge)
    for name in OLD:
        with contextlib.suppress(OSError):
            (folder / name).unlink()
    return deed


def _copy(folder: Path) -> None:
    if (folder / COPY).exists():
        return
    draft = folder / f".{COPY}.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    for name in KEPT:
        if (folder / name).exists():
            shutil.copy2(folder / name, draft / name)
    sync_folder(draft)
    draft.replace(folder / COPY)
    sync_folder(folder)


def _read(path: Path, kind: type[T]) -> T | str | None:
    """What a file of format 1 says; None: there is none; a text: why it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        return f"{path.name} could not be read ({error}); it is kept in {COPY}"


def _write(path: Path, entries: Any) -> None:
    replace(path, msgspec.json.format(msgspec.json.encode(entries)) + b"\n")


def decisions_of_1(
    freezes: dict[str, Freeze1] | str | None,
    approvals: dict[str, Set1] | str | None,
    shown: dict[str, Set1] | str | None,
) -> dict[str, Decision]:
    """Format 1's three tables as one, by name. Freezes that cannot be read freeze every link; sets are left out."""
    if isinstance(freezes, str):
        freezes = {EVERY_LINK: Freeze1(reason=freezes, by="isthmus", since=0.0)}
    found = freezes_of_1(freezes or {})
    for kind, sets in ((Kind.APPROVAL, approvals), (Kind.SHOWN, shown)):
        for key, one in sets.items() if isinstance(sets, dict) else ():
            until = one.at + APPROVED if kind is Kind.APPROVAL else None
            made = Decision(kind=kind, key=key, at=one.at, by=one.by, reason=one.reason, until=until, items=one.items)
            found[made.name] = made
    return found


def freezes_of_1(freezes: dict[str, Freeze1]) -> dict[str, Decision]:
    """Format 1's freezes, by name."""
    made = (
        Decision(kind=Kind.FREEZE, key=link, at=one.since, by=one.by, reason=one.reason, until=one.until)
        for link, one in freezes.items()
    )
    return {one.name: one for one in made}
