"""Who we are to a cluster: the kubeconfig or the service account, read by the official package, kept fresh."""

from __future__ import annotations

import asyncio
import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from adapters.common.credentials import Tls, named, token_end
from adapters.common.disk import FRESH, Question
from adapters.common.urls import is_url
from bridge.adapter import Credential
from bridge.errors import Denied

FRESH_TIME = 60.0  # seconds after which a token file is read again, as client-go does
EARLY = 30.0  # seconds before its end that a credential is replaced
SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class Access(NamedTuple):
    """Where the apiserver is and what we show it.

    `where`: the file that says so. `ends`: when a credential that is asked for anew by then does, in seconds since the
    epoch. `token`: one of which the end is known.
    """

    url: str
    tls: Tls
    authorization: str
    where: str
    ends: float | None = None
    token: Credential | None = None

    @property
    def secret(self) -> str:
        """What the token is called where it is not taken, "" where there is none."""
        if not self.authorization:
            return ""
        return named(self.token) if self.token is not None else f"the token of {self.where}"


class Keeper:
    """The access of one context, loaded anew when its file changes, its credential ends, or the server refused it.

    Everything that can be wrong with it is Denied: the operator mends the file, and no restart is needed.
    """

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._known: Access | None = None
        self._stamp: tuple[int, int] = (0, 0)
        self._loaded = 0.0
        self._loading = asyncio.Lock()
        self._stamped = Question(self._look, kubeconfig or str(SERVICE_ACCOUNT), fresh=FRESH)

    async def access(self) -> Access:
        """What to use now. Raises Denied, and Unavailable where the disk does not answer.

        An exec plugin runs in a thread, once for all that wait.
        """
        stamp = await self._stamped.answer()
        async with self._loading:
            if self._known is None or self._is_stale(self._known, stamp):
                loop = asyncio.get_running_loop()
                self._known = await asyncio.to_thread(self._load)
                self._stamp, self._loaded = stamp, loop.time()
            return self._known

    def refused(self, used: str) -> None:
        """The server did not take this authorization: the next request brings a new one, if there is one."""
        self._stamped.doubt()
        if self._known is not None and self._known.authorization == used:
            self._known = None

    def _is_stale(self, known: Access, stamp: tuple[int, int]) -> bool:
        if known.ends is not None and known.ends - EARLY <= datetime.now(UTC).timestamp():
            return True
        # An exec plugin says when its credential ends; files of tokens do not.
        may_change = known.ends is None and self._loaded + FRESH_TIME <= asyncio.get_running_loop().time()
        return may_change or self._stamp != stamp

    def _look(self) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            found = os.stat(self._kubeconfig or SERVICE_ACCOUNT)
            return found.st_mtime_ns, found.st_size
        return 0, 0

    def _load(self) -> Access:
        where = self._kubeconfig or "the pod's service account"
        made: Any = Configuration()
        try:
            if self._kubeconfig is None:
                load_incluster_config(client_configuration=made)  # type: ignore[no-untyped-call]
            else:
                load_kube_config(  # type: ignore[no-untyped-call]
                    self._kubeconfig, self._context, made, persist_config=False
                )
        except (ConfigException, OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
            raise Denied(f"{where} cannot be used: {error}") from error
        authorization = str(made.api_key.get("BearerToken") or "")
        if authorization.startswith("bearer "):
            authorization = "Bearer " + authorization.removeprefix("bearer ").strip()
        tls = Tls(ca=made.ssl_ca_cert, cert=made.cert_file, key=made.key_file, server_name=made.tls_server_name)
        token = token_end(authorization.removeprefix("Bearer "), where)
        access = Access(str(made.host).rstrip("/"), tls, authorization, where, _end_of(made), token)
        self._judge(where, access, made)
        return access

    def _judge(self, where: str, access: Access, made: Any) -> None:
        if not is_url(access.url):
            raise Denied(f"{where}: the cluster's server {access.url!r} is no http:// or https:// address")
        if made.verify_ssl is False:
            raise Denied(f"{where}: insecure-skip-tls-verify is not supported: name the certificate-authority")
        if made.proxy:
            raise Denied(f"{where}: proxy-url is not supported")
        anonymous = not access.authorization and access.tls.cert is None
        if anonymous and self._kubeconfig is not None and (plugin := _plugin(self._kubeconfig, self._context)):
            raise Denied(f"{where}: the exec plugin {plugin} gave no credential; it is run as the bridge's user")


def _end_of(made: Any) -> float | None:
    """When an exec plugin's or a provider's credential ends: the loader keeps it inside the hook that renews it."""
    hook = made.refresh_api_key_hook
    for cell in getattr(hook, "__closure__", None) or ():
        expiry = getattr(cell.cell_contents, "expiry", None)
        if isinstance(expiry, datetime):
            return (expiry if expiry.tzinfo else expiry.replace(tzinfo=UTC)).timestamp()
    return None


def _plugin(kubeconfig: str, context: str | None) -> str:
    """The command of the user's exec plugin, "" where it has none."""
    found = yaml.safe_load(Path(kubeconfig).read_text())
    wanted = context or found.get("current-context")
    user = next((each["context"].get("user") for each in found.get("contexts", ()) if each.get("name") == wanted), None)
    users = (each.get("user") or {} for each in found.get("users", ()) if each.get("name") == user)
    return next((str(each["exec"].get("command")) for each in users if each.get("exec")), "")
