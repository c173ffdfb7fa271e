"""What natives do at a Eureka: register as Spring's client does, renew, drain, end."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.servers.eureka import Eureka

MY_OWN = {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo", "name": "MyOwn"}


class Native:
    """The clients of one server."""

    def __init__(self, server: Eureka) -> None:
        self.server = server

    async def register(self, app: str, id: str, address: str = "192.0.2.1", **fields: Any) -> None:
        """A registration; `fields` in the place of what it would have. None: left out."""
        record = {
            "instanceId": id,
            "app": app.upper(),
            "ipAddr": address,
            "hostName": address,
            "vipAddress": app,
            "status": "UP",
            "dataCenterInfo": MY_OWN,
            "port": {"$": 8080, "@enabled": "true"},
            "metadata": {"zone": "a"},
            **fields,
        }
        said = {key: value for key, value in record.items() if value is not None}
        await self.server.call("POST", f"/apps/{app.upper()}", {"instance": said})

    async def renew(self, app: str, id: str) -> None:
        """A heartbeat."""
        await self.server.call("PUT", self._path(app, id))

    async def cancel(self, app: str, id: str) -> None:
        """An orderly end."""
        await self.server.call("DELETE", self._path(app, id))

    async def override(self, app: str, id: str, status: str) -> None:
        """An operator says another status."""
        await self.server.call("PUT", f"{self._path(app, id)}/status?value={status}")

    async def get(self, app: str, id: str) -> dict[str, Any]:
        """The instance, past the caches; raises HTTPError where there is none."""
        found: dict[str, Any] = (await self.server.call("GET", self._path(app, id)))["instance"]
        return found

    async def all(self) -> dict[tuple[str, str], dict[str, Any]]:
        """All instances, by application and id, past the caches."""
        return await self.server.listed()

    def _path(self, app: str, id: str) -> str:
        return f"/apps/{app.upper()}/{quote(id, safe='')}"
