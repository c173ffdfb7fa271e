"""Dubbo's lever: the rule of one interface, version and group at the config centre, which is a ZooKeeper by default.

It is one node that dubbo-admin and others write as well: what stands there is merged with, and compared by its version.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from kazoo.exceptions import NoAuthError

from adapters.zookeeper import acl
from adapters.zookeeper.client import Client
from adapters.zookeeper.replies import values_of
from adapters.zookeeper.txn import BYTES
from adapters.zookeeper.wire import Create, Delete, Op, SetData
from bridge.adapter import Lever
from bridge.errors import Conflict, Denied, Rejected
from bridge.model import Instance, ServiceName
from mappings import dubbo_rule as rule

ROOT = "/dubbo"  # of the providers whose consumers have their rules below FOLDER; of another one nobody has seen it
FOLDER = "/dubbo/config/dubbo"


class DubboRules:
    """See `bridge.adapter.Levers`: a lever of all natives of one version; a native's key is `host:port`."""

    def __init__(self, client: Client, root: str, bridge: str) -> None:
        self._client = client
        self._root = root
        self._bridge = bridge

    def key_of(self, instance: Instance) -> str:
        """See `Levers.key_of`; the id is no such key, for it is made of the whole URL."""
        return f"{instance.address}:{instance.ports[0].number if instance.ports else 0}"

    async def places(self, name: ServiceName, natives: Sequence[Instance]) -> Mapping[str, str]:
        """See `Levers.places`."""
        if self._root != ROOT:
            raise Rejected(f"providers below {self._root}: where their consumers look for rules was never seen")
        found = {}
        providers = await self._client.children(f"{ROOT}/{name.name}/providers")
        for one in natives:
            key = self.key_of(one)
            if not rule.is_address(key) or not one.ports:
                raise Rejected(f"{one.id}: how a rule names that provider was never seen; stop it at its machine")
            if along := rule.taken_along(key, providers):
                raise Rejected(f"{key}: a rule with it takes {', '.join(along)} out, too; stop it at its machine")
            found[key] = f"{FOLDER}/{rule.Service(name.name, one.version, name.namespace).node}"
        return found

    async def lever(self, place: str) -> Lever:
        """See `Levers.lever`."""
        await self._client.connected()
        (node,) = values_of(await self._client.reads([place]))
        return Lever(place, node.value, (node.version, node.mzxid)) if node is not None else Lever(place, None)

    def set_to(self, lever: Lever, name: ServiceName, out: Collection[str]) -> bytes | None:
        """See `Levers.set_to`."""
        of = rule.Service.of(lever.place.rpartition("/")[2])
        return rule.merged(lever.content, of, self._bridge, out)

    async def put(self, before: Lever, content: bytes | None) -> Lever:
        """See `Levers.put`. The node is read again: one that was made anew begins with version 0."""
        if content is not None and len(content) > BYTES:
            raise Rejected(f"{before.place}: {len(content):,} bytes: a packet of ZooKeeper's holds {BYTES:,}")
        stands = await self.lever(before.place)
        if stands != before:
            raise Conflict(f"{before.place} is not what it was")
        operation: Op
        if stands.content is None:
            if content is None:
                return stands
            await acl.ensure(self._client, FOLDER)
            operation = Create(before.place, content, await acl.inherited(self._client, FOLDER))
        elif content is None:
            operation = Delete(before.place, stands.version[0])
        else:
            operation = SetData(before.place, content, stands.version[0])
        failed = (await self._client.multi(self._client.pack([operation]))).value
        if failed and isinstance(failed[0].error, NoAuthError):
            raise Denied(f"{before.place}: {failed[0].error or 'not allowed'}")
        if failed:
            raise Conflict(f"{before.place} is not what it was")
        return await self.lever(before.place)
