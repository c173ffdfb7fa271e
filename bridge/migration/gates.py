"""The gates of a migration: what the block `gates` says, and what looks at both sides come to; pure.

A look ends in pass, fail, inconclusive or no data. No data (too few requests, nothing, NaN, stale, Prometheus away)
holds a step: it never lets one pass, and never rolls one back. What a look was made of is kept with it.
"""

from __future__ import annotations

import enum
import math
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from bridge.adapter import Sample
from bridge.errors import ConfigError, Fault
from bridge.model import ServiceName
from bridge.units import TIME, Duration

SCRAPES = 4  # a window has at least so many scrapes: a rate over fewer is one over chance
UNSEEN = 3  # intervals without a look after which the last one says nothing any more
STALE = 60.0  # seconds that the time of an answer may differ from ours: an older one was kept by somebody on the way
LARGEST = sys.float_info.max  # in the place of infinity, which JSON cannot say
CONNECTION = ("url", "username", "password_file", "token_file", "tls")
VARIABLE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
VARIABLES = ("side", "window", "service", "namespace")
INSTANCES = "instances"  # in `requests` alone: a regular expression for the label of what is scraped

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]
PromQL = Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
Limit = Annotated[float, msgspec.Meta(ge=0)]


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Paths of PEM files; `server_name` where the certificate is for another name than the address says."""

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None


class Sides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """The text that `{{side}}` becomes in a query, for each side."""

    from_: Annotated[str, msgspec.Meta(min_length=1)]
    to: Annotated[str, msgspec.Meta(min_length=1)]


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One gate: a question for Prometheus, and the limits of its answer.

    `fail_above`, `fail_below`: of `to`. `worse_by`: 0.5 fails where `to` is above 1.5 times `from` in the same window.
    `min_samples`: of fewer requests in the window nothing is concluded. `failures`: so many failed looks in a row fail.
    """

    name: Name
    query: PromQL
    fail_above: float | None = None
    fail_below: float | None = None
    worse_by: Limit | None = None
    min_samples: Annotated[int, msgspec.Meta(ge=0)] = 0
    interval: Annotated[float, msgspec.Meta(ge=1), TIME] = 30.0
    failures: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3

    def __post_init__(self) -> None:
        if faults := [*_variables(self.query, "query"), *self._limits()]:
            raise ConfigError(*faults)

    def _limits(self) -> Iterator[Fault]:
        if self.fail_above is None and self.fail_below is None and self.worse_by is None:
            yield Fault("has no limit: give fail_above, fail_below or worse_by, else it could never fail")
        if self.worse_by is None:
            return
        if not self.by_side:
            yield Fault("compares both sides, so the query needs {{side}}", ("worse_by",))
        if self.fail_below is not None and self.fail_above is None:
            yield Fault("means that `to` is higher, and fail_below that lower is worse: turn the query", ("worse_by",))

    @property
    def by_side(self) -> bool:
        """Whether each side has an answer of its own."""
        return "side" in VARIABLE.findall(self.query)


class Prometheus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is asked, and what. `scrape`: the longest time between two scrapes of what the queries read.

    `requests`: how many requests a side had in the window, for `min_samples` and for the measured share.
    """

    url: str
    username: str | None = None
    password_file: str | None = None
    token_file: str | None = None
    tls: Tls | None = None
    scrape: Annotated[float, msgspec.Meta(ge=0.1, le=600), TIME] = 60.0
    sides: Sides
    requests: PromQL | None = None
    queries: tuple[Query, ...] = ()

    def __post_init__(self) -> None:
        if faults := list(self._faults()):
            raise ConfigError(*faults)

    def _faults(self) -> Iterator[Fault]:
        names = [query.name for query in self.queries]
        for index, query in enumerate(self.queries):
            if query.name in names[:index]:
                yield Fault(f"{query.name} is there twice", ("queries", index, "name"))
            if query.min_samples and self.requests is None:
                text = "counts requests: write in `requests`, beside `queries`, the query that counts those of a side"
                yield Fault(text, ("queries", index, "min_samples"))
        if self.requests is not None:
            yield from _variables(self.requests, "requests", (*VARIABLES, INSTANCES))
            if "side" not in VARIABLE.findall(self.requests):
                yield Fault("counts the requests of each side, so it needs {{side}}", ("requests",))
        if self.token_file is not None and self.password_file is not None:
            yield Fault("give token_file or username and password_file, not both", ("token_file",))
        if (self.username is None) != (self.password_file is None):
            yield Fault("username and password_file go together: give both or neither", ("username",))
        if self.tls is not None and (self.tls.cert is None) != (self.tls.key is None):
            yield Fault("cert and key go together: give both or neither", ("tls",))
        if self.sides.from_ == self.sides.to:
            yield Fault("both sides have the same text, so they cannot be told apart", ("sides",))

    @property
    def by_instance(self) -> bool:
        """Whether `requests` can count those of some instances of a side apart."""
        return self.requests is not None and INSTANCES in VARIABLE.findall(self.requests)

    @property
    def connection(self) -> dict[str, Any]:
        """The keys that say whom to ask, for `bridge.config.kinds.meter`."""
        return {key: msgspec.to_builtins(getattr(self, key)) for key in CONNECTION}

    def placed(self, beside: Callable[[str], str]) -> Prometheus:
        """With each path as `beside` makes it absolute."""
        tls = self.tls
        if tls is not None:
            tls = msgspec.structs.replace(tls, **_placed(tls, ("ca", "cert", "key"), beside))
        return msgspec.structs.replace(self, tls=tls, **_placed(self, ("password_file", "token_file"), beside))


class Gates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a step waits for. `hold_for`: at each step, where settling does not take longer.

    `approve`: the steps that wait for `migrate next`. `parity`: whether a difference keeps it from starting.
    """

    parity: Literal["block", "warn"] = "block"
    hold_for: Duration = 600.0
    approve: tuple[Literal["first", "last"], ...] = ("first", "last")
    prometheus: Prometheus | None = None

    @property
    def queries(self) -> tuple[Query, ...]:
        """Every query there is; none without a Prometheus."""
        return self.prometheus.queries if self.prometheus is not None else ()


def _variables(text: str, key: str, variables: Sequence[str] = VARIABLES) -> Iterator[Fault]:
    for found in dict.fromkeys(VARIABLE.findall(text)):
        if found not in variables:
            known = ", ".join(f"{{{{{one}}}}}" for one in variables)
            yield Fault(f"{{{{{found}}}}} is unknown; known: {known}", (key,))


def _placed(block: msgspec.Struct, keys: Sequence[str], beside: Callable[[str], str]) -> dict[str, str]:
    return {key: beside(path) for key in keys if (path := getattr(block, key)) is not None}


def filled(text: str, *, side: str, window: float, service: ServiceName, addresses: Collection[str] = ()) -> str:
    """The query as it is asked; what a name has of quotes and backslashes cannot end the text that it stands in.

    `addresses`: of the instances that `{{instances}}` means, none: all.
    """
    said = {
        "side": _quoted(side),
        "window": f"{math.ceil(window)}s",
        "service": _quoted(service.name),
        "namespace": _quoted(service.namespace),
        INSTANCES: "|".join(_pattern(one) for one in sorted(addresses)) or ".*",
    }
    return VARIABLE.sub(lambda found: said.get(found[1], found[0]), text)


def _pattern(address: str) -> str:
    """A regular expression for an address with any port or none, which needs no escape in any kind of quotes."""
    text = re.sub(r"[^A-Za-z0-9:_-]", ".", address)
    return f"(.{text}.|{text})(:[0-9]+)?" if ":" in text else f"{text}(:[0-9]+)?"


def _quoted(text: str) -> str:
    return re.sub(r"[\\\"'`\x00-\x1f]", lambda found: f"\\x{ord(found[0]):02x}", text)


class Timing(NamedTuple):
    """Of a step: when it began, and since when every place and daemon follows it (None: not yet); since the epoch.

    `settle`, `scrape`: seconds that its slowest consumer takes from then on, and between two scrapes.
    """

    begun: float
    settled: float | None
    settle: float
    scrape: float

    @property
    def whole(self) -> float:
        """Seconds of a window that a step may be passed by: a shorter one measures the old weights, or chance."""
        return max(self.settle, SCRAPES * self.scrape)

    def window(self, at: float) -> float | None:
        """Seconds that a look at that time goes back: never to before the step; None: it is too early to look.

        A step that has just begun is looked at by a shorter window, so that a side that is sick is found at once.
        """
        since = at - self.begun
        return min(since, self.whole) if since >= SCRAPES * self.scrape else None

    @property
    def over(self) -> float | None:
        """When the last consumer has followed, since the epoch; None: nobody knows yet."""
        return None if self.settled is None else self.settled + self.settle

    def after(self, at: float) -> float | None:
        """Seconds, whole ones, of a window that has nothing in it of before that; None: it is too early for one."""
        least = max(1.0, math.ceil(SCRAPES * self.scrape))
        since = 0.0 if self.over is None else at - self.over
        return math.floor(min(since, max(self.settle, least))) if since >= least else None

    def settling(self, at: float, window: float) -> float | None:
        """Seconds until such a window has nothing in it of before the last consumer followed; None: nobody knows."""
        return None if self.over is None else max(0.0, self.over + max(window, self.whole) - at)


class Result(enum.StrEnum):
    """What a look or a gate comes to. INCONCLUSIVE: within its limits, but too early, or after a look that failed."""

    PASS = "pass"  # noqa: S105  no password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no data"


class Asked(NamedTuple):
    """What was answered of one side. `requests` None: nobody counts them."""

    sample: Sample
    requests: Sample | None = None


class Look(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One look at a gate, and all that it was made of (what was asked, answered, and compared with what).

    `at`: seconds since the epoch; `window` in seconds. `values`, `requests`: by side (`from`, `to`), those there are.
    """

    result: Result
    reason: str
    query: str
    at: float
    window: float
    limit: str = ""
    values: Mapping[str, float] = {}
    requests: Mapping[str, float] = {}


class Gate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of one gate of one move. `seen`: it has returned data once. `fails`: failed looks in a row."""

    seen: bool = False
    fails: int = 0
    look: Look | None = None

    def after(self, look: Look) -> Gate:
        """With one more look. One without data neither adds to the failed ones nor ends their row."""
        fails = {Result.FAIL: self.fails + 1, Result.NO_DATA: self.fails}.get(look.result, 0)
        return Gate(self.seen or look.result is not Result.NO_DATA, fails, look)

    def anew(self) -> Gate:
        """At the beginning of a step, or of its time anew: that it works is all that still holds."""
        return Gate(self.seen)


class Verdict(NamedTuple):
    """What all gates of a step come to. `gates`: the names that make it so, `reason`: theirs.

    `by_itself`: whether a step may be passed without a person, as far as gates go; `waits` says why not.
    """

    result: Result
    reason: str = ""
    gates: tuple[str, ...] = ()
    by_itself: bool = False
    waits: str = ""


def judge(query: Query, sides: Mapping[str, Asked], asked: str, timing: Timing, at: float, window: float) -> Look:
    """What one look comes to. `sides`: the answers by `from` and `to`; `asked`: the query as it was asked of `to`."""
    values = {side: value for side, one in sides.items() if (value := _number(one.sample)) is not None}
    requests = {side: count for side, one in sides.items() if (count := _number(one.requests)) is not None}
    result, reason, limit = _concluded(query, sides, at)
    if result is Result.PASS and (left := timing.settling(at, window)) != 0:
        more = f"in {left:.0f} s it does not" if left is not None else "the step has not settled yet"
        result, reason = Result.INCONCLUSIVE, f"{reason}, but the window reaches back to before that: {more}"
    return Look(
        result=result, reason=reason, query=asked, at=at, window=window, limit=limit, values=values, requests=requests
    )


def _concluded(query: Query, sides: Mapping[str, Asked], at: float) -> tuple[Result, str, str]:
    """The result with its reason, and the limit that decided, whatever the step's time."""
    to = sides["to"]
    if why := _missing(query, to, at):
        return Result.NO_DATA, f"`to`: {why}", ""
    value = to.sample.value or 0.0
    if query.fail_above is not None and value > query.fail_above:
        return Result.FAIL, f"{value:g} is above {query.fail_above:g}", f"fail_above {query.fail_above:g}"
    if query.fail_below is not None and value < query.fail_below:
        return Result.FAIL, f"{value:g} is below {query.fail_below:g}", f"fail_below {query.fail_below:g}"
    if query.worse_by is not None and (compared := _compared(query, query.worse_by, value, sides["from"], at)):
        return compared
    limits = [f"{key} {limit:g}" for key in LIMITS if (limit := getattr(query, key)) is not None]
    return Result.PASS, f"{value:g} is within {', '.join(limits)}", ", ".join(limits)


LIMITS = ("fail_above", "fail_below", "worse_by")


def _missing(query: Query, one: Asked, at: float) -> str:
    """Why nothing can be concluded of a side, "" if something can."""
    value = one.sample.value
    if value is None:
        return one.sample.why or "there is no value"
    if math.isnan(value):
        return "the value is NaN, as of nothing divided by nothing"
    if abs(at - one.sample.at) > STALE:
        return f"the answer is of a time {abs(at - one.sample.at):.0f} s from ours: it is stale, or a clock is wrong"
    if not query.min_samples or one.requests is None:
        return ""
    count = one.requests.value
    if count is None or math.isnan(count):
        return f"its requests cannot be counted: {one.requests.why or 'NaN'}"
    return f"{count:.0f} requests, and {query.min_samples} are needed" if count < query.min_samples else ""


def _compared(query: Query, worse_by: float, value: float, other: Asked, at: float) -> tuple[Result, str, str] | None:
    """`to` beside `from`; None: it is not worse.

    Where `from` has nothing to compare with (no requests at the last step), other limits decide if there are any.
    """
    limit = f"worse_by {worse_by:g}"
    alone = query.fail_above is None
    if why := _missing(query, other, at):
        return (Result.NO_DATA, f"`from`: {why}", limit) if alone else None
    before = other.sample.value or 0.0
    if before == 0 and not alone:
        return None  # a ratio to nothing says nothing
    most = before + worse_by * abs(before)
    if value <= most:
        return None
    return Result.FAIL, f"{value:g} is above {most:g}, {1 + worse_by:g} times the {before:g} of `from`", limit


def _number(sample: Sample | None) -> float | None:
    """As it can be kept: JSON has neither NaN nor infinity."""
    if sample is None or sample.value is None or math.isnan(sample.value):
        return None
    return min(max(sample.value, -LARGEST), LARGEST)


def stands(query: Query, gate: Gate, now: float) -> tuple[Result, str]:
    """What a gate comes to now, with its reason: its last look, the row of failed ones, and how old that is."""
    look = gate.look
    if gate.fails >= query.failures and look is not None:
        return Result.FAIL, f"failed {gate.fails} looks in a row: {look.reason}"
    if look is None:
        return Result.NO_DATA, "has not been looked at in this step"
    if now - look.at > UNSEEN * query.interval:
        return Result.NO_DATA, f"the last look is {now - look.at:.0f} s old"
    if look.result is Result.FAIL:
        return Result.INCONCLUSIVE, f"failed {gate.fails} of {query.failures} looks in a row: {look.reason}"
    return look.result, look.reason


WORST = (Result.FAIL, Result.NO_DATA, Result.INCONCLUSIVE)


def verdict(queries: Sequence[Query], gates: Mapping[str, Gate], now: float, without: Collection[str] = ()) -> Verdict:
    """What all gates come to: the worst of them. `without`: those that a person passes in this step, if not failed."""
    found: dict[Result, dict[str, str]] = {result: {} for result in Result}
    for query in queries:
        result, reason = stands(query, gates.get(query.name, Gate()), now)
        if result is Result.FAIL or query.name not in without:
            found[result][query.name] = reason
    never = [query.name for query in queries if not gates.get(query.name, Gate()).seen]
    waits = "no gate has a query" if not queries else f"never returned data: {', '.join(never)}" if never else ""
    for result in WORST:
        if of := found[result]:
            reason = "; ".join(f"{name}: {why}" for name, why in of.items())
            return Verdict(result, reason, tuple(of), not waits, waits)
    return Verdict(Result.PASS, by_itself=not waits, waits=waits)
