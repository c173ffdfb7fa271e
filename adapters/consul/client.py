"""A thin client of Consul's HTTP API: reads that prove something, polls, transactions, and errors by their text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from adapters.common.credentials import Tls, from_file
from adapters.common.http import NOTHING, Answer, Http
from bridge.adapter import Credential
from bridge.errors import Denied, Expired, IsthmusError, Rejected, Unavailable

READ_TIME = 15.0  # seconds for a plain read: a server without a leader holds it for 7 to 12 s
WRITE_TIME = 15.0  # seconds for a transaction, likewise
SLACK = 10.0  # seconds that the answer to a poll may be late
LATE = 17 / 16  # of `wait`: the server adds up to a sixteenth
READS = 16  # connections for all that is no poll
OTHERS = 24  # polls of lists, checks, locks and the drift

DATA = msgspec.json.Decoder(list[msgspec.Raw])


class Throttled(Unavailable):
    """429: the agent's limit of connections for one client address is reached (`http_max_conns_per_client`)."""


# What a status says less of than its text: an error is one of a server, of the value or of a right by its words.
TEXTS: tuple[tuple[str, type[IsthmusError]], ...] = (
    ("Permission denied", Denied),
    ("lacks permission", Denied),
    ("ACL not found", Denied),
    ("Invalid Service Meta", Rejected),
    ("Invalid service address", Rejected),
    ("Request decode failed", Rejected),
    ("Failed to parse body", Rejected),
)


def classify(status: int, text: str) -> type[IsthmusError] | None:
    """The class of an error by its text, None: by its status."""
    if status == 429:
        return Throttled
    return next((kind for words, kind in TEXTS if words in text), None)


class Reply(msgspec.Struct, frozen=True):
    """An answer to a read that may be believed. `index`: of this query in this datacenter, 0 where it has none."""

    index: int
    body: bytes
    status: int = 200

    def json(self, type: Any = Any) -> Any:
        """The body, decoded; raises Unavailable: a broken answer is no observation."""
        try:
            return msgspec.json.decode(self.body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Unavailable(f"Consul answered what is not the JSON that was asked for: {error}") from error


class Client:
    """The agents at some addresses, which are asked in turn where one gives no answer."""

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        tls: Tls | None = None,
        token: str | None = None,
        token_file: str | None = None,
        polls: int = 100,
    ) -> None:
        self.has_token = token is not None or token_file is not None
        self._headers = _headers(token, token_file)
        self._secret = f"the token of {token_file or 'the configuration'}" if self.has_token else ""
        self._reads = self._http(addresses, tls, READS)
        self._polls = self._http(addresses, tls, polls + OTHERS)

    def _http(self, addresses: Sequence[str], tls: Tls | None, in_flight: int) -> Http:
        return Http(
            addresses, tls=tls, headers=self._headers, classify=classify, in_flight=in_flight, secret=self._secret
        )

    def credentials(self) -> list[Credential]:
        """See `Http.credentials`."""
        return self._reads.credentials()

    async def close(self) -> None:
        """Ends every connection."""
        await self._reads.close()
        await self._polls.close()

    async def get(self, path: str, dc: str = "", accept: Sequence[int] = (), **query: str) -> Reply:
        """A plain read. Raises Unavailable or Denied; a partial answer is one of them, never a reply."""
        answer = await self._reads.call("GET", path, query=_query(dc, query), accept=accept, timeout=READ_TIME)
        return self._believed(path, answer)

    async def poll(self, path: str, dc: str, index: int, wait: float, accept: Sequence[int] = (), **more: str) -> Reply:
        """The same as soon as the index is another one than this, or after `wait` seconds.

        `near` takes it from the streaming backend, which answers a dead datacenter and a deleted token with an empty
        list. Raises Expired where the index went back: the state of the servers is an older one.
        """
        query = _query(dc, {"index": str(index), "wait": f"{round(wait * 1000)}ms", "near": "_agent", **more})
        answer = await self._polls.call("GET", path, query=query, accept=accept, timeout=wait * LATE + SLACK)
        reply = self._believed(path, answer)
        if reply.index < index:
            raise Expired(f"the index of {path} went back to {reply.index}, from {index}")
        return reply

    async def put(self, path: str, dc: str, body: Any = None, accept: Sequence[int] = (), **query: str) -> Answer:
        """A write, sent once. Raises Unavailable, Denied, Conflict or Rejected."""
        return await self._reads.call(
            "PUT",
            path,
            query=_query(dc, query),
            body=msgspec.json.encode(body) if body is not None else None,
            accept=accept,
            timeout=WRITE_TIME,
        )

    async def post(self, path: str, dc: str, body: Any) -> Answer:
        """A question that takes a body, and changes nothing. Raises as `put` does."""
        return await self._reads.call(
            "POST", path, query=_query(dc, {}), body=msgspec.json.encode(body), timeout=READ_TIME, again=True
        )

    def _believed(self, path: str, answer: Answer) -> Reply:
        """Raises where the answer leaves out what we may not read, or comes from servers that have no leader."""
        headers = answer.headers
        if headers.get("x-consul-results-filtered-by-acls") == "true":
            raise Denied(f"{path}: Consul left out what this token may not read")
        if headers.get("x-consul-default-acl-policy") == "deny" and not self.has_token:
            raise Denied(f"{path}: Consul denies by default and tells nobody what it leaves out: give a token")
        if headers.get("x-consul-query-backend") == "streaming":
            raise Unavailable(f"{path}: answered from a streamed view, which is empty where its source is dead")
        if headers.get("x-consul-knownleader") == "false":
            raise Unavailable(f"{path}: answered by servers that know no leader")
        index = headers.get("x-consul-index", "0")
        return Reply(int(index) if index.isdecimal() else 0, answer.body, answer.status)


def _headers(token: str | None, token_file: str | None) -> Mapping[str, str] | Callable[[], Mapping[str, str]]:
    """With a token's file asked at each request, so that it may change."""
    if token_file is None:
        return {"X-Consul-Token": token} if token is not None else NOTHING
    read = from_file(token_file)
    return lambda: {"X-Consul-Token": read()}


def instances_of(service: str) -> str:
    """The path of a service's instances and their checks."""
    return f"/v1/health/service/{quote(service, safe='')}"


def _query(dc: str, more: Mapping[str, str]) -> dict[str, str]:
    return {"dc": dc, **more} if dc else dict(more)
