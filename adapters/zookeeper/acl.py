"""ACLs: a node that we create gets the ACL of the node above it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterable, Sequence

from kazoo.exceptions import NodeExistsError, NoNodeError

from adapters.zookeeper.client import Client
from adapters.zookeeper.wire import Acl
from bridge.errors import Denied

READ, WRITE, CREATE, DELETE = 1, 2, 4, 8
_MASKED = "x"  # shown instead of a digest to users without the permission ADMIN (3.9)


async def inherited(client: Client, path: str) -> list[Acl]:
    """The ACL of a node, for nodes created below it. Raises Denied where we may not see it.

    ZooKeeper does not inherit ACLs, and a native that may not delete our node could not register again.
    """
    acl = []
    for perms, scheme, id in await client.acl(path):
        user, _, digest = id.partition(":")
        if scheme == "digest" and digest == _MASKED:
            own = client.credential or ""
            if own.partition(":")[0] != user:
                raise Denied(f"{path}: to create nodes with its rights takes the permission to administer it (a)")
            id = digest_of(own)
        acl.append((perms, scheme, id))
    return acl


async def ensure(client: Client, path: str) -> None:
    """Creates a node and the missing ones above it, each with the ACL of its parent."""
    if await client.exists(path):
        return
    parent = path.rpartition("/")[0]
    if parent:
        await ensure(client, parent)
    acl = await inherited(client, parent or "/")
    with contextlib.suppress(NodeExistsError):
        await client.create(path, b"", acl)


def allowed(acl: Iterable[Acl], credential: str | None, wanted: Sequence[int]) -> bool | None:
    """Whether we have all of these permissions; None: only the server knows."""
    ours = {("world", "anyone")}
    if credential is not None:
        ours |= {("digest", digest_of(credential)), ("digest", f"{credential.partition(':')[0]}:{_MASKED}")}
    granted = unknown = 0
    for perms, scheme, id in acl:
        if (scheme, id) in ours:
            granted |= perms
        elif scheme not in ("world", "digest"):
            unknown |= perms
    needed = sum(wanted)
    return True if needed & ~granted == 0 else None if needed & ~(granted | unknown) == 0 else False


async def nearest(client: Client, path: str) -> tuple[str, list[Acl]]:
    """The ACL of a node, or of the nearest node above it that exists."""
    while True:
        try:
            return path, await client.acl(path)
        except NoNodeError:
            if path == "/":
                raise
            path = path.rpartition("/")[0] or "/"


def digest_of(credential: str) -> str:
    """How an ACL names `user:password` (DigestAuthenticationProvider)."""
    hashed = hashlib.sha1(credential.encode(), usedforsecurity=False).digest()
    return f"{credential.partition(':')[0]}:{base64.b64encode(hashed).decode()}"
