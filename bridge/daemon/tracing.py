"""Traces: what one change went through, from the word of its source to the write at each destination.

Only a daemon whose file says `bridge.tracing` imports this module, and with it OpenTelemetry's SDK. The SDK makes the
ids, samples and keeps the spans; they are sent by us: the exporters of OTLP over HTTP that there are speak protobuf
alone, and wait in threads of their own. Every span is made when it is over: nothing of a trace is carried along with a
change, but for the number that log and journal follow it by.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import aiohttp
import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, set_span_in_context

from bridge import __version__
from bridge.adapter import Change
from bridge.config.schema import Tracing as Settings
from bridge.destination.events import Failed, HeldBack, Written
from bridge.model import Mark, ServiceName
from bridge.sources.store import Seen, Store
from bridge.sources.view import Observation

log = logging.getLogger("isthmus.daemon")

EVERY = 1.0  # seconds between two requests
TIME = 10.0  # seconds that a collector has to answer
LAST = 2.0  # seconds for what is left when the daemon ends
ROOM = 4096  # spans that wait for the collector; more are dropped, and counted
BATCH = 512  # spans in one request
KEPT = 10_000  # changes whose trace may still go on
PATH = "/v1/traces"  # OTLP/HTTP 1.x
LATER = frozenset((429, 502, 503, 504))  # statuses after which the same may be sent again (OTLP/HTTP)


class Root(NamedTuple):
    """How the trace of one change began, at its source."""

    service: ServiceName
    context: SpanContext


class Waiting(SpanProcessor):
    """The spans that are over, up to `ROOM`. `dropped`: those that found no room, or that the collector refused."""

    def __init__(self) -> None:
        self.spans: deque[ReadableSpan] = deque()
        self.dropped = 0

    def on_end(self, span: ReadableSpan) -> None:
        """One more; the sampler has decided that it counts."""
        if len(self.spans) < ROOM:
            self.spans.append(span)
        else:
            self.dropped += 1


class Tracing:
    """The traces of one daemon. `store` is asked by which number its changes are followed; `clock`: monotonic seconds.

    All methods return at once, and never fail; `follow` comes first. A `traceparent` (W3C) is "" where the trace is
    not sampled.
    """

    def __init__(self, bridge: str, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self.waiting = Waiting()
        self._otlp = ""
        self._store = store
        self._clock = clock
        self._named = Resource(
            {"service.name": "isthmus", "service.version": __version__, "service.instance.id": bridge}
        )
        self._decided: tuple[int, Root | None] = (0, None)  # the newest change, and whether it is sampled
        self._roots: dict[int, Root] = {}  # by the number of the change
        self._newest: dict[ServiceName, Root] = {}
        self._held: dict[tuple[str, ServiceName, str], SpanContext] = {}
        self._fault = ""

    def follow(self, settings: Settings) -> None:
        """Where they go from now on, and of which share of all changes; what was changed before has none any more."""
        self._roots.clear()
        self._newest.clear()
        self._held.clear()
        self._otlp = settings.otlp.rstrip("/") + PATH
        sampler = ParentBased(TraceIdRatioBased(settings.sample))
        provider = TracerProvider(sampler, self._named, shutdown_on_exit=False)
        provider.add_span_processor(self.waiting)
        self._tracer = provider.get_tracer("isthmus", __version__)

    # -- what happens ------------------------------------------------------------------------------------------------

    def touched(self, registry: str, service: ServiceName, seen: Seen) -> None:
        """A service of a registry changed (`Store.touch`)."""
        self._root(seen.change, registry, service, seen.revision)

    def observed(self, told: Observation) -> str:
        """What a registry said of an instance, before its change has its number; the traceparent."""
        if told.service is None:
            return ""
        root = self._root(self._store.version + 1, told.registry, told.service, told.revision)
        return traceparent(root.context) if root is not None else ""

    def sent(self, change: Change, destination: str, seen: Seen) -> str:
        """The traceparent of a change that is about to be sent: what it follows from, for its own span is not over."""
        parent = self._held.get((destination, change.service, change.id)) or self._of(seen.change, change)
        return traceparent(parent) if parent is not None else ""

    def written(self, event: Written) -> str:
        """A change was made: it was planned and let go by the guard until it was sent, and written since."""
        change, seen = event.outcome.change, event.seen
        parent = self._held.pop((event.destination, change.service, change.id), None) or self._of(seen.change, change)
        if parent is None:
            return ""
        about = _about(change, event.destination, str(event.cause or "")) | {"isthmus.change": seen.change}
        if (ground := event.ground) is not None:
            about |= {"isthmus.hold": ground.hold, "isthmus.rule": ground.rule, "isthmus.freed": str(ground.freed)}
        now = self._clock()
        planned = self._span("plan", parent, seen.at, min(max(event.sent, seen.at), now), about)
        about |= {"isthmus.kind": event.kind, "isthmus.version": str(event.outcome.version or "")}
        return traceparent(self._span("write", planned, event.sent or seen.at, now, about))

    def held(self, event: HeldBack) -> None:
        """The guard keeps removals back: whatever lets them go, they go on in the same trace."""
        for one in event.ones:
            change, now = one.removal.change, self._clock()
            key = (event.destination, change.service, change.id)
            if key in self._held or (parent := self._latest(change)) is None:
                continue
            about = _about(change, event.destination, str(one.removal.cause)) | {"isthmus.rule": one.verdict.rule}
            self._held[key] = self._span("hold", parent, now, now, about)
            _bounded(self._held)

    def failed(self, event: Failed) -> None:
        """A change failed; it is tried again, or is parked."""
        if (parent := self._latest(event.change)) is not None:
            now = self._clock()
            about = _about(event.change, event.destination, "")
            self._span("write", parent, now, now, about, error=f"{type(event.error).__name__}: {event.error}")

    def _root(self, change: int, registry: str, service: ServiceName, revision: int) -> Root | None:
        if self._decided[0] == change:  # told of it already, by an instance of the same service
            return self._decided[1]
        about: dict[str, str | int] = {"isthmus.registry": registry, "isthmus.service": str(service)}
        now = self._clock()
        context = self._span(
            "seen", None, now, now, about | {"isthmus.change": change, "isthmus.revision": revision or ""}
        )
        self._newest.pop(service, None)
        root = Root(service, context) if context.trace_flags.sampled else None
        if root is not None:
            self._roots[change] = self._newest[service] = root
            _bounded(self._roots)
            _bounded(self._newest)
        self._decided = (change, root)
        return root

    def _of(self, number: int, change: Change) -> SpanContext | None:
        """The trace of a change, unless the number is of another service: what is planned again has the newest one."""
        root, mark = self._roots.get(number), _mark(change)
        return root.context if root is not None and mark is not None and mark.service == root.service else None

    def _latest(self, change: Change) -> SpanContext | None:
        mark = _mark(change)
        root = self._newest.get(mark.service) if mark is not None else None
        return root.context if root is not None else None

    def _span(
        self,
        name: str,
        parent: SpanContext | None,
        begun: float,
        ended: float,
        about: Mapping[str, str | int],
        error: str = "",
    ) -> SpanContext:
        """One that is over; times are monotonic."""
        now, clock = time.time_ns(), self._clock()
        within = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
        said = {key: value for key, value in about.items() if value != ""}
        span = self._tracer.start_span(name, within, attributes=said, start_time=now - round((clock - begun) * 1e9))
        if error:
            span.set_status(StatusCode.ERROR, error)
        span.end(now - round((clock - ended) * 1e9))
        return span.get_span_context()

    # -- sending it --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns; trouble with the collector ends here."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIME)) as session:
            try:
                while True:
                    await asyncio.sleep(EVERY)
                    await self._send(session)
            finally:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST):
                        await self._send(session)

    async def _send(self, session: aiohttp.ClientSession) -> None:
        while spans := [self.waiting.spans.popleft() for _ in range(min(BATCH, len(self.waiting.spans)))]:
            body = await asyncio.to_thread(encoded, spans)
            fault, again = await self._posted(session, body)
            if fault and fault != self._fault:
                log.warning("traces otlp=%s reason=%r", self._otlp, fault)
            self._fault = fault
            if fault and again:
                self.waiting.spans.extendleft(reversed(spans[max(0, len(spans) + len(self.waiting.spans) - ROOM) :]))
                return
            if fault:
                self.waiting.dropped += len(spans)

    async def _posted(self, session: aiohttp.ClientSession, body: bytes) -> tuple[str, bool]:
        """Why the collector did not take it, "": it did; and whether it may take it later."""
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(self._otlp, data=body, headers=headers, allow_redirects=False) as answer:
                return ("" if answer.ok else f"it answers {answer.status}"), answer.status in LATER
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{type(error).__name__}: {error}", True


def traceparent(context: SpanContext) -> str:
    """As W3C Trace Context writes it, "" where it is not sampled."""
    if not context.trace_flags.sampled:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-01"  # the flags that level 1 knows: sampled


def encoded(spans: Iterable[ReadableSpan]) -> bytes:
    """A request of OTLP in JSON: ids in hexadecimal digits, whole numbers of 64 bits as texts (OTLP/HTTP, "JSON")."""
    spans = list(spans)
    said = {
        "resource": {"attributes": _attributes(spans[0].resource.attributes)},
        "scopeSpans": [{"scope": {"name": "isthmus", "version": __version__}, "spans": [_shown(one) for one in spans]}],
    }
    return msgspec.json.encode({"resourceSpans": [said]})


def _shown(span: ReadableSpan) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    failed = span.status.status_code is StatusCode.ERROR
    return {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "parentSpanId": f"{span.parent.span_id:016x}" if span.parent is not None else "",
        "name": span.name,
        "kind": 1,  # SPAN_KIND_INTERNAL
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": 2, "message": span.status.description or ""} if failed else {},
    }


def _attributes(said: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": str(value)}}
        for key, value in said.items()
    ]


def _about(change: Change, destination: str, cause: str) -> dict[str, str | int]:
    mark = _mark(change)
    return {
        "isthmus.service": str(change.service),
        "isthmus.instance": change.id,
        "isthmus.destination": destination,
        "isthmus.link": mark.link if mark is not None else "",
        "isthmus.cause": cause,
    }


def _mark(change: Change) -> Mark | None:
    return change.mark or (change.before.mark if change.before else None)


def _bounded(kept: dict[Any, Any]) -> None:
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
