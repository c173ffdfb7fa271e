"""Who a datacenter is: its name, and the trust domain that Consul gave its certificate authority for good."""

from __future__ import annotations

import msgspec

from adapters.consul.client import Client
from bridge.errors import Unavailable

NAMELESS = "consul::"  # begins the identity where there is no trust domain


class _Roots(msgspec.Struct):
    TrustDomain: str = ""


async def identity(client: Client, dc: str) -> str:
    """The same for every bridge and through every agent; another one where the datacenter began anew.

    Where Connect is disabled there is no trust domain, and datacenters of one name cannot be told apart.
    """
    try:
        roots = (await client.get("/v1/connect/ca/roots", dc)).json(_Roots)
    except Unavailable as error:
        if "Connect must be enabled" not in str(error):
            raise
        return f"{NAMELESS}{dc}"
    return f"consul:{roots.TrustDomain.removesuffix('.consul')}:{dc}"
