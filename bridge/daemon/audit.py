"""What happens at destinations, written down: in the journal, the metrics and the log."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Unpack

from bridge.adapter import Cause, Change
from bridge.daemon.metrics import Metrics
from bridge.destination.events import (
    Event,
    Failed,
    Happened,
    HeldBack,
    Noticed,
    Released,
    Taken,
    Unwritten,
    Would,
    Written,
)
from bridge.destination.note import Act
from bridge.destination.standby import ACTS
from bridge.destination.writer import Writer
from bridge.model import Mark
from bridge.plan.values import scope_of
from bridge.sources.store import Seen
from bridge.sources.view import Observation
from bridge.state.folder import State
from bridge.state.journal import Journal
from bridge.state.record import Said

log = logging.getLogger("isthmus.daemon")


class Acts:
    """What operators did by way of this process: in the journal, and the last of it for the daemons on other hosts.

    Freezes are not among it: they are decisions, which every host takes over.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._latest: deque[Act] = deque(maxlen=ACTS)

    def note(self, kind: str, *, service: str = "", **said: Unpack[Said]) -> None:
        """One more: `by` whom, and the `reason`, at least."""
        self._journal.append(kind, service=service, **said)
        self._latest.append(
            Act(at=time.time(), kind=kind, link=said.get("link", ""), by=said["by"], reason=said["reason"])
        )

    def latest(self) -> list[Act]:
        """The last few, the oldest first."""
        return list(self._latest)


class Tracing(Protocol):
    """What makes traces of changes, where the file asks for them; `bridge.daemon.tracing` says what they are."""

    def observed(self, told: Observation) -> str: ...

    def sent(self, change: Change, destination: str, seen: Seen) -> str: ...

    def written(self, event: Written) -> str: ...

    def held(self, event: HeldBack) -> None: ...

    def failed(self, event: Failed) -> None: ...


class Audit:
    """What a daemon keeps of the events at its destinations.

    `writer_of(link)`: who writes its entries now, as far as is known; `observes(link)`: whether it writes nothing.
    """

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        kept: State,
        clock: Callable[[], float],
        writer_of: Callable[[str], Writer | None],
        observes: Callable[[str], bool],
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._kept = kept
        self._clock = clock
        self._writer_of = writer_of
        self._observes = observes
        self.tracing: Tracing | None = None

    def traced(self, change: Change, destination: str, seen: Seen) -> str:
        """The traceparent of a change that is about to be sent, "" without a trace."""
        return self.tracing.sent(change, destination, seen) if self.tracing is not None else ""

    def tell(self, event: Event) -> None:
        """One event, where it belongs."""
        match event:
            case Written():
                self._written(event)
            case Noticed():
                self._noticed(event)
            case Taken():
                self._taken(event)
            case HeldBack():
                self._held(event)
            case Released():
                self._released(event)
            case Failed():
                self._failed(event)
            case Would():
                self._would(event)
            case Unwritten():
                self._unwritten(event)
            case Happened():
                self._happened(event)

    def _written(self, event: Written) -> None:
        change, link = event.outcome.change, _link(event.outcome.change)
        took = self._clock() - event.seen.at
        self._metrics.written(link, event.kind, took)
        seen, ground = event.seen, event.ground
        said: Said = {"serving": event.serving, "change": seen.change, "revision": seen.revision}
        if ground is not None:
            said |= {"rule": ground.rule, "freed": str(ground.freed), "hold": ground.hold}
        if self.tracing is not None:
            said["trace"] = self.tracing.written(event)
        self._note(event.kind, change, event.destination, event.cause, **said)
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "written change=%d kind=%s link=%s service=%s instance=%s cause=%s took=%.6f version=%s",
                event.seen.change,
                event.kind,
                link,
                change.service,
                change.id,
                event.cause or "",
                took,
                event.outcome.version,
            )

    def _noticed(self, event: Noticed) -> None:
        writer = self._writer_of(_link(event.change)) if event.change.mark is not None else None
        reason = f"by the writer {writer.host}" if writer is not None else "by the writer"
        self._note(event.kind, event.change, event.destination, event.cause, serving=event.serving, reason=reason)

    def _taken(self, event: Taken) -> None:
        change = event.change
        self._metrics.taken(_link(change))
        log.warning("taken link=%s service=%s instance=%s", _link(change), change.service, change.id)
        reason = "no daemon of this bridge removed it; it is written again"
        self._note("taken", change, event.destination, serving=event.serving, reason=reason)

    def _would(self, event: Would) -> None:
        self._note(event.kind, event.change, event.destination, event.cause, serving=event.serving, would=True)

    def _note(
        self, kind: str, of: Change, destination: str, cause: Cause | None = None, /, **said: Unpack[Said]
    ) -> None:
        """A line of the journal about one change. `said`: other fields of it."""
        about: Said = {
            "destination": destination,
            "link": _link(of),
            "instance": of.id,
            "cause": str(cause or ""),
            "mark": _mark(of),
            "scope": scope_of(of.mark) if of.mark else ("", ""),
        }
        before = of.before.instance if of.before else None
        self._journal.append(kind, service=of.service, before=before, after=of.after, **(about | said))

    def _held(self, event: HeldBack) -> None:
        """One line of the log a set, however large; the journal has each."""
        if self.tracing is not None:
            self.tracing.held(event)
        ones = event.ones
        first, services = ones[0], {one.item[1] for one in ones}
        log.warning(
            "held link=%s scope=%s cause=%s rule=%r services=%d instances=%d first=%s",
            first.item[0],
            "/".join(filter(None, first.removal.scope)),
            first.removal.cause,
            first.verdict.rule,
            len(services),
            len(ones),
            "/".join(first.item[1:]),
        )
        for one in ones:
            change = one.removal.change
            self._journal.append(
                "hold",
                destination=event.destination,
                link=one.item[0],
                service=change.service,
                instance=change.id,
                cause=str(one.removal.cause),
                mark=_mark(change),
                reason=one.verdict.rule,
                before=change.before.instance if change.before else None,
                would=self._observes(one.item[0]),
            )

    def _released(self, event: Released) -> None:
        link, service, key = event.one.item
        why = "released" if event.goes else "no longer asked"
        log.debug("release link=%s service=%s instance=%s why=%r", link, service, key, why)
        self._journal.append(
            "release",
            destination=event.destination,
            link=link,
            service=event.one.removal.change.service,
            instance=key,
            cause=str(event.one.removal.cause),
            mark=_mark(event.one.removal.change),
            reason=why,
            would=self._observes(link),
        )

    def _failed(self, event: Failed) -> None:
        if self.tracing is not None:
            self.tracing.failed(event)
        change, error = event.change, event.error
        kind = type(error).__name__.lower()
        self._metrics.failed(_link(change), kind)
        log.warning(
            "%s link=%s service=%s instance=%s reason=%r", kind, _link(change), change.service, change.id, str(error)
        )
        if kind == "rejected":
            self._journal.append(
                "park",
                destination=event.destination,
                link=_link(change),
                service=change.service,
                instance=change.id,
                mark=_mark(change),
                reason=str(error),
                after=change.after,
            )

    def _unwritten(self, event: Unwritten) -> None:
        self._journal.append(
            event.kind,
            destination=event.destination,
            link=event.link,
            service=event.service,
            instance=event.id,
            reason=event.reason,
            would=bool(event.link) and self._observes(event.link),
        )

    def _happened(self, event: Happened) -> None:
        kind, about = event
        log.info(" ".join([kind, *(f"{key}=%r" for key in about)]), *about.values())
        self._journal.append(
            kind,
            destination=str(about.get("destination", "")),
            registry=str(about.get("registry", "")),
            link=str(about.get("link", "")),
            by=str(about.get("by", "")),
            reason=_reason({key: value for key, value in about.items() if key not in ("link", "by")}),
        )
        if kind == "settled":
            self._kept.settle(str(about["destination"]), str(about["source"]), str(about["scope"]))

    def observed(self, told: Observation) -> None:
        """What a source said, of a registry that somebody asks it for (`Store.report`)."""
        self._journal.append(
            str(told.kind),
            registry=told.registry,
            scope=(told.identity, told.scope),
            service=told.service or "",
            instance=told.instance,
            before=told.before,
            after=told.after,
            changed=told.changed,
            revision=told.revision,
            cause=told.cause,
            reason=told.reason,
            trace=self.tracing.observed(told) if self.tracing is not None else "",
        )


def _link(change: Change) -> str:
    return change.mark.link if change.mark else ""


def _mark(change: Change) -> Mark | None:
    """What the entry says from now on of its owner and origin; of one that goes, what it said."""
    return change.mark or (change.before.mark if change.before else None)


def _reason(about: Mapping[str, Any]) -> str:
    """The reason that was given, and all else by its name."""
    said = [f"{key}={value}" for key, value in about.items() if key != "reason" and value != ""]
    return " ".join(([str(about["reason"])] if about.get("reason") else []) + said)
