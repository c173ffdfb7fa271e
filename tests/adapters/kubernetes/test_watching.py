"""What a line of a watch is taken for, whatever kind of object is followed: an object, a bookmark, or an error."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from adapters.kubernetes.access import Keeper
from adapters.kubernetes.client import Client
from adapters.kubernetes.watching import Follower
from bridge.errors import Denied, Expired, IsthmusError, Unavailable
from mappings.kubernetes.objects import Meta, Node, Pod, Service, Slice


class Strict(msgspec.Struct, frozen=True):
    """A kind whose objects say more than a bookmark does."""

    metadata: Meta
    spec: dict[str, str]


async def _stands() -> None:
    """The same cluster."""


def decoded(kind: type[Any], type: str, object: object) -> Any:
    follower = Follower(Client(Keeper("nowhere", None)), "/kinds", kind, random.Random(1), _stands)
    return follower._decoded(msgspec.json.encode({"type": type, "object": object}))


META = {"name": "a", "namespace": "n", "resourceVersion": "7"}


@pytest.mark.parametrize("kind", [Slice, Service, Pod, Node, Strict])
def test_a_bookmark_has_a_position_whatever_else_objects_of_its_kind_have(kind: type[Any]) -> None:
    event = decoded(kind, "BOOKMARK", {"kind": "K", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}})
    assert (event.type, event.object.metadata.resource_version) == ("BOOKMARK", "9")


@pytest.mark.parametrize("kind", [Slice, Service, Pod, Node, Strict])
@pytest.mark.parametrize(
    ("code", "message", "error"),
    [
        (410, "too old resource version: 1 (9)", Expired),
        (504, "Too large resource version: 99, current: 9", Expired),
        (403, "forbidden", Denied),
        (500, "etcdserver: leader changed", Unavailable),
    ],
)
def test_an_error_in_a_good_answer_is_the_error(
    kind: type[Any], code: int, message: str, error: type[IsthmusError]
) -> None:
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message}
    with pytest.raises(error, match=f"{code} {message[:5]}"):
        decoded(kind, "ERROR", {**status, "reason": "R", "code": code})


def test_an_object_is_read_as_its_kind() -> None:
    event = decoded(Slice, "MODIFIED", {"metadata": META, "addressType": "IPv6", "endpoints": None, "ports": None})
    assert (event.type, event.object) == ("MODIFIED", Slice(Meta("a", "n", resource_version="7"), "IPv6"))


@pytest.mark.parametrize(
    ("object", "why"),
    [({"metadata": META, "endpoints": 5}, "an object that is none of /kinds"), ("x", "an object that is none of")],
)
def test_an_object_that_makes_no_sense_is_a_broken_answer(object: object, why: str) -> None:
    with pytest.raises(Unavailable, match=why):
        decoded(Slice, "ADDED", object)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b'{"type":"ADDED"}', b'{"type":"ERROR","object":{"code":"x"}}'])
def test_a_line_that_is_none_is_a_broken_answer(line: bytes) -> None:
    follower = Follower(Client(Keeper("nowhere", None)), "/kinds", Slice, random.Random(1), _stands)
    with pytest.raises(Unavailable, match="a watch's line that is none"):
        follower._decoded(line)
