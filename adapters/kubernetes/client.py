"""The API of one cluster: lists in pages, watches as typed events, and errors by what a Status says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Generic, NamedTuple, TypeVar
from urllib.parse import quote

import msgspec

from adapters.common.http import ANSWER_TIME, Answer, Http, Stream
from adapters.kubernetes.access import Access, Keeper
from adapters.kubernetes.times import TIMES, Times
from bridge.adapter import Credential
from bridge.errors import Denied, Expired, IsthmusError, Rejected, Unavailable
from mappings.kubernetes import objects

PAGE = 500  # objects in one answer of a list, as kubectl asks for
LIST_TIME = 60.0  # seconds for one page: a busy apiserver collects it from etcd
KEPT = 2  # connections pools of earlier credentials that are kept, for the requests under way

T = TypeVar("T", bound=msgspec.Struct)

# 500 and 504 with these words can never be answered otherwise: they are no failure of the server's.
_TOO_LARGE_REVISION = ("Too large resource version", "ResourceVersionTooLarge")
_PERMANENT = ("failed to create typed patch object", "request is too large", "resourceVersion should not be set")

# 403 with these words is no question of rights: a webhook or a policy refused the object, or there is no room for it.
_FORBIDDEN_FOR: tuple[tuple[str, type[IsthmusError]], ...] = (
    ("NamespaceTerminating", Unavailable),
    ("exceeded quota", Unavailable),
    ("status unknown for quota", Unavailable),  # nobody has counted yet, or the controller that does is down
    ("denied the request", Rejected),
    ("denied request", Rejected),
)


class Unauthorized(Denied):
    """401: the credential is not taken, or not any more; another one may be."""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What the apiserver says of a failure, as an answer or as an event of a watch."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Resource(NamedTuple):
    """One kind of object: its path below the root of the API, and what it is called where rights are missing."""

    group: str  # with its version: `api/v1`, `apis/discovery.k8s.io/v1`
    plural: str

    def path(self, namespace: str = "", name: str = "") -> str:
        """Of all objects, those of a namespace, or one."""
        within = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        return f"/{self.group}{within}/{self.plural}" + (f"/{quote(name, safe='')}" if name else "")

    @property
    def api_group(self) -> str:
        """The group as a rule of RBAC names it, "" for the core's."""
        return self.group.split("/")[1] if self.group.startswith("apis/") else ""


SERVICES = Resource("api/v1", "services")
SLICES = Resource("apis/discovery.k8s.io/v1", "endpointslices")
PODS = Resource("api/v1", "pods")
NODES = Resource("api/v1", "nodes")
NAMESPACES = Resource("api/v1", "namespaces")


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """Of a list: the position that it is a picture of, and where the next page begins."""

    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class Page(msgspec.Struct, Generic[T], frozen=True):
    """A page of a list."""

    metadata: ListMeta = ListMeta()
    items: list[T] | None = None


class Event(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A line of a watch."""

    type: str
    object: T


def classify(status: int, body: str) -> type[IsthmusError] | None:
    """The error of an answer where its text says more than its number; None: the table's."""
    if status == 401:
        return Unauthorized
    if status == 504 and any(words in body for words in _TOO_LARGE_REVISION):
        return Expired
    if status == 500 and any(words in body for words in _PERMANENT):
        return Rejected
    if status == 403:
        return next((kind for words, kind in _FORBIDDEN_FOR if words in body), None)
    return None


def error_of(status: Status) -> IsthmusError:
    """The error that ends a watch whose answer was 200."""
    reason = f"the watch ended: {status.code} {status.message or status.reason}"
    if status.code == 410 or (status.code == 504 and any(words in status.message for words in _TOO_LARGE_REVISION)):
        return Expired(reason)
    if status.code in (401, 403):
        return Denied(reason)
    return Unavailable(reason)


_FORBIDDEN = re.compile(r'cannot (\w+) resource \\*"([^"\\]+)\\*" in API group \\*"([^"\\]*)').search
_WITHIN = re.compile(r"/namespaces/([^/]+)/").search


def rule(group: str, plural: str, verb: str, namespace: str) -> str:
    """The rule of RBAC that somebody needs, and where it goes."""
    where = f"a Role in namespace {namespace}" if namespace else "a ClusterRole"
    return f'{{apiGroups: ["{group}"], resources: [{plural}], verbs: [{verb}]}} in {where}'


def explained(error: Denied, path: str) -> Denied:
    """The same with the rule that is missing, where the server says what it refused."""
    found, within = _FORBIDDEN(str(error)), _WITHIN(path)
    if found is None:
        return error
    verb, plural, group = found.groups()
    return Denied(f"the bridge's account lacks {rule(group, plural, verb, within[1] if within else '')}: {error}")


class Client:
    """Requests to one cluster, whose credentials may change between any two of them. `times`: of its watches."""

    def __init__(self, keeper: Keeper, times: Times = TIMES) -> None:
        self._keeper = keeper
        self.times = times
        self._http: tuple[Access, Http] | None = None
        self._earlier: list[Http] = []

    async def close(self) -> None:
        """Ends every connection."""
        pools, self._earlier = self._earlier, []
        if self._http is not None:
            pools.append(self._http[1])
            self._http = None
        for each in pools:
            await each.close()

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content: str = "application/json",
        accept: Collection[int] = (),
        timeout: float = ANSWER_TIME,
    ) -> Answer:
        """One request; `content`: the type of its body. Raises what `Http.call` raises."""
        access, http = await self._pool()
        headers = self._headers(access, {"Content-Type": content} if body is not None else {})
        try:
            return await http.call(
                method, path, query=query, body=body, headers=headers, accept=accept, timeout=timeout
            )
        except Unauthorized:
            self._keeper.refused(access.authorization)
            raise
        except Denied as error:
            raise explained(error, path) from error

    async def get(self, path: str, kind: type[T]) -> T | None:
        """One object, None: there is none."""
        answer = await self.call("GET", path, accept=(404,))
        return None if answer.status == 404 else answer.json(kind)

    async def pages(self, path: str, kind: type[T], query: Mapping[str, str]) -> AsyncIterator[Page[T]]:
        """A consistent list in pages, all of one position. Raises Expired where its history went meanwhile."""
        asked = {**query, "limit": str(PAGE)}
        while True:
            answer = await self.call("GET", path, query=asked, timeout=LIST_TIME)
            page: Page[T] = answer.json(Page[kind])  # type: ignore[valid-type]
            yield page
            if not page.metadata.continue_:
                return
            asked["continue"] = page.metadata.continue_  # which says the position, and suffers no second word on it
            asked.pop("resourceVersion", None)
            asked.pop("resourceVersionMatch", None)

    async def listed(self, path: str, kind: type[T], query: Mapping[str, str] | None = None) -> list[T]:
        """A whole list."""
        found: list[T] = []
        async with aclosing(self.pages(path, kind, query or {})) as pages:  # type: ignore[type-var]
            async for page in pages:
                found += page.items or ()
        return found

    @asynccontextmanager
    async def watching(self, path: str, query: Mapping[str, str]) -> AsyncIterator[Stream]:
        """The lines of a watch."""
        access, http = await self._pool()
        try:
            async with http.stream(
                "GET",
                path,
                query={**query, "watch": "1"},
                headers=self._headers(access, {}),
                silence=self.times.silence,
                begins=self.times.begins,
            ) as stream:
                yield stream
        except Unauthorized:
            self._keeper.refused(access.authorization)
            raise
        except Denied as error:
            raise explained(error, path) from error

    def _headers(self, access: Access, more: Mapping[str, str]) -> dict[str, str]:
        said = {"Accept": "application/json", "User-Agent": "isthmus", **more}
        return said | ({"Authorization": access.authorization} if access.authorization else {})

    async def _pool(self) -> tuple[Access, Http]:
        """Connections stay when only a token changes; with other certificates or another server they are new ones."""
        access = await self._keeper.access()
        if self._http is None or (self._http[0].url, self._http[0].tls) != (access.url, access.tls):
            if self._http is not None:
                self._earlier.append(self._http[1])
                while len(self._earlier) > KEPT:
                    await self._earlier.pop(0).close()
            made = Http([access.url], tls=access.tls, classify=classify, certificate=f"of {access.where}")
            self._http = access, made
        access, http = self._http = access, self._http[1]
        http.secret = access.secret
        return access, http

    def credentials(self) -> list[Credential]:
        """What was shown last, without what an exec plugin gives anew by itself."""
        if self._http is None:
            return []
        access, http = self._http
        return [*http.credentials(), *([access.token] if access.token is not None and access.ends is None else [])]


def slices_of(name: str) -> dict[str, str]:
    """The query for the slices of one Service."""
    return {"labelSelector": f"{objects.SERVICE_NAME}={name}"}
