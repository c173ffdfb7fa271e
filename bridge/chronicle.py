"""What happens at destinations, written down: in the journal, the metrics and the log."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bridge.adapter import Cause, Change, Outcome
from bridge.holds import HeldRemoval
from bridge.journal import Journal
from bridge.metrics import Metrics
from bridge.reconcile import Writer
from bridge.state import State
from bridge.store import Seen

log = logging.getLogger("isthmus.daemon")


class Chronicle:
    """The `bridge.desk.Ear` of a daemon. `writer_of(link)`: who writes its entries now, as far as is known."""

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        kept: State,
        clock: Callable[[], float],
        writer_of: Callable[[str], Writer | None],
    ) -> None:
        self._journal = journal
        self._metrics = metrics
        self._kept = kept
        self._clock = clock
        self._writer_of = writer_of

    def written(self, outcome: Outcome, kind: str, cause: Cause | None, seen: Seen, serving: tuple[int, int]) -> None:
        """One change was made at a destination."""
        change = outcome.change
        link = change.mark.link if change.mark else ""
        took = self._clock() - seen.at
        self._metrics.written(link, kind, took)
        self._journal.append(
            kind,
            link=link,
            service=change.service,
            instance=change.id,
            cause=str(cause or ""),
            before=change.before.instance if change.before else None,
            after=change.after,
            scope=(change.mark.path[-1], change.mark.scope) if change.mark else ("", ""),
            serving=serving,
            change=seen.change,
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug(
                "written change=%d kind=%s link=%s service=%s instance=%s cause=%s took=%.6f version=%s",
                seen.change,
                kind,
                link,
                change.service,
                change.id,
                cause or "",
                took,
                outcome.version,
            )

    def noticed(self, change: Change, kind: str, serving: tuple[int, int]) -> None:
        """The writer made a change while this process stood by."""
        mark = change.mark
        writer = self._writer_of(mark.link) if mark is not None else None
        self._journal.append(
            kind,
            link=mark.link if mark is not None else "",
            service=change.service,
            instance=change.id,
            reason=f"by the writer {writer.host}" if writer is not None else "by the writer",
            before=change.before.instance if change.before else None,
            after=change.after,
            scope=(mark.path[-1], mark.scope) if mark is not None else ("", ""),
            serving=serving,
        )

    def held(self, one: HeldRemoval) -> None:
        """The guard holds a removal."""
        link, service, key = one.item
        log.warning("held link=%s service=%s instance=%s rule=%r", link, service, key, one.verdict.rule)
        change = one.removal.change
        before = change.before.instance if change.before else None
        self._journal.append(
            "hold",
            link=link,
            service=change.service,
            instance=key,
            cause=str(one.removal.cause),
            reason=one.verdict.rule,
            before=before,
        )

    def released(self, one: HeldRemoval, why: str) -> None:
        """A held removal is held no more."""
        link, service, key = one.item
        log.info("release link=%s service=%s instance=%s why=%r", link, service, key, why)
        self._journal.append(
            "release",
            link=link,
            service=one.removal.change.service,
            instance=key,
            cause=str(one.removal.cause),
            reason=why,
        )

    def failed(self, change: Change, error: Exception) -> None:
        """One change failed."""
        link = change.mark.link if change.mark else ""
        kind = type(error).__name__.lower()
        self._metrics.failed(link, kind)
        log.warning("%s link=%s service=%s instance=%s reason=%r", kind, link, change.service, change.id, str(error))
        if kind == "rejected":
            self._journal.append(
                "park", link=link, service=change.service, instance=change.id, reason=str(error), after=change.after
            )

    def event(self, kind: str, **about: object) -> None:
        """Anything else worth a line."""
        log.info(" ".join([kind, *(f"{key}=%r" for key in about)]), *about.values())
        self._journal.append(kind, reason=" ".join(f"{key}={value}" for key, value in about.items()))
        if kind == "settled":
            self._kept.settle(str(about["destination"]), str(about["source"]), str(about["scope"]))
