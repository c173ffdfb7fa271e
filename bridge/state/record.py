"""One line of the journal, and what the guard reads out of it."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import msgspec

from bridge.model import Instance, Mark, ServiceName

START = "start"  # the kind of the first line of a process
WRITER, STANDBY = "writer", "standby"  # the kinds of the lines that begin and end a term at a destination


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One line.

    `at` in seconds since the epoch; `seq` grows by one from line to line, whichever process wrote them, 0 while the
    line is not on the disk.
    `kind`: add, update, remove, forget, hold, release, approve, freeze, unfreeze, thaw, purge, leave, handover, config,
    misfile (a changed file was refused), park, shadow, start, stop, gap, refused (a command), taken (by somebody else),
    override, drain, unset, undo, writer and standby (a term begins and ends), and what a source said
    (`bridge.sources.view.Told`): observed, appeared, vanished, lost, synced, stale, doubted.
    `service` as `name` or `namespace:name`; `scope` is the origin's identity and scope; `serving` counts the
    service's serving instances before and after, and is equal where the guard counts nothing (a first copy);
    `by` is the operator (peer credentials), where there was one. `would`: a link that observes did not do it.
    `destination` is the registry that was written, `mark` what the entry says, or said, of its owner and origin.
    Of what a source said: `registry` is its name, `changed` the fields that differ between `before` and `after`,
    `revision` the store's position, 0 where it has none; of what was written, the position that it answers.
    Of a removal: `rule` has the guard's limit with its figures, `freed` what let it go (`bridge.guard.gate.Freed`),
    `hold` the set that was approved, also of the approval itself. Of a start and a file that is taken over: `file` is
    its hash, `version` that of isthmus. `trace`: the traceparent (W3C) of what is said, where its trace is sampled.
    """

    at: float
    seq: int = 0
    kind: str
    link: str = ""
    destination: str = ""
    service: str = ""
    instance: str = ""
    cause: str = ""
    scope: tuple[str, str] = ("", "")
    serving: tuple[int, int] = (0, 0)
    change: int = 0
    by: str = ""
    reason: str = ""
    mark: Mark | None = None
    before: Instance | None = None
    after: Instance | None = None
    would: bool = False
    registry: str = ""
    changed: tuple[str, ...] = ()
    revision: int = 0
    rule: str = ""
    freed: str = ""
    hold: str = ""
    file: str = ""
    version: str = ""
    trace: str = ""


class Said(TypedDict, total=False):
    """The fields of a `Record` that are noted as they are."""

    link: str
    destination: str
    instance: str
    cause: str
    scope: tuple[str, str]
    serving: tuple[int, int]
    change: int
    by: str
    reason: str
    mark: Mark | None
    would: bool
    registry: str
    changed: tuple[str, ...]
    revision: int
    rule: str
    freed: str
    hold: str
    file: str
    version: str
    trace: str


class Loss(NamedTuple):
    """What the guard needs to know of a line that changed how many serve."""

    at: float
    link: str
    service: ServiceName
    scope: tuple[str, str]
    serving: tuple[int, int]
    replaces: bool = False  # it took the place of another entry, or gave way to one: of its scope nothing was lost
    reused: bool = False  # its address served elsewhere
