"""The files that data planes are started with, so that they ask this export and come back soon after an outage."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import yaml

from adapters.common.listen import Listen

Variant = Literal["delta", "world"]

_HTTP = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_CLUSTER = "isthmus"


class Files(NamedTuple):
    """Paths at the data plane: what signs the export's certificate, and its own certificate and key."""

    ca: str
    cert: str
    key: str


class Wanted(NamedTuple):
    """What a data plane's file is to say. `files` None: without TLS. `admin`: where its own pages are, "" nowhere."""

    server: Listen
    node: str
    files: Files | None = None
    admin: str = ""
    variant: Variant = "delta"
    network: str = ""
    region: str = ""
    zone: str = ""

    @property
    def who(self) -> dict[str, Any]:
        """The node, as both kinds of client say it: where it is only where that is known."""
        locality = {key: text for key, text in (("region", self.region), ("zone", self.zone)) if text}
        network = {"metadata": {"network": self.network}} if self.network else {}
        return {"id": self.node, **network, **({"locality": locality} if locality else {})}


def envoy(wanted: Wanted) -> str:
    """YAML for `envoy -c`. A control plane that is back is found within a second, one that froze within ten."""
    source = {"ads": {}, "resource_api_version": "V3"}
    backoff = {"base_interval": "0.2s", "max_interval": "1s"}
    service = {"envoy_grpc": {"cluster_name": _CLUSTER, "retry_policy": {"retry_back_off": backoff}}}
    cluster: dict[str, Any] = {
        "name": _CLUSTER,
        "type": "STRICT_DNS" if not _is_ip(wanted.server.host) else "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            _HTTP: {
                "@type": f"type.googleapis.com/{_HTTP}",
                "explicit_http_config": {
                    "http2_protocol_options": {"connection_keepalive": {"interval": "5s", "timeout": "2s"}}
                },
            }
        },
        "load_assignment": {
            "cluster_name": _CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(wanted.server)}}]}],
        },
    }
    if wanted.files is not None:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": _tls(wanted)}
    file: dict[str, Any] = {
        "node": {**wanted.who, "cluster": _CLUSTER},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC" if wanted.variant == "delta" else "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [service],
            },
            "cds_config": source,
            "lds_config": source,
        },
        "static_resources": {"clusters": [cluster]},
    }
    if wanted.admin:
        file["admin"] = {"address": _address(Listen.parse(wanted.admin))}
    return str(yaml.dump(file, Dumper=_Plain, sort_keys=False))


def grpc(wanted: Wanted) -> str:
    """JSON for GRPC_XDS_BOOTSTRAP; what a control plane does not name for a moment is kept."""
    credentials: dict[str, Any] = {"type": "insecure"}
    if wanted.files is not None:
        files = {
            "ca_certificate_file": wanted.files.ca,
            "certificate_file": wanted.files.cert,
            "private_key_file": wanted.files.key,
        }
        credentials = {"type": "tls", "config": files}
    server = {
        "server_uri": str(wanted.server),
        "channel_creds": [credentials],
        "server_features": ["xds_v3", "ignore_resource_deletion"],
    }
    return json.dumps({"xds_servers": [server], "node": wanted.who}, indent=2) + "\n"


CLIENTS: Mapping[str, Callable[[Wanted], str]] = {"envoy": envoy, "grpc": grpc}


def _tls(wanted: Wanted) -> dict[str, Any]:
    assert wanted.files is not None
    ca, cert, key = wanted.files
    return {
        "@type": f"type.googleapis.com/{_TLS}",
        "sni": wanted.server.host,
        "common_tls_context": {
            "tls_certificates": [{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}],
            "validation_context": {"trusted_ca": {"filename": ca}},
        },
    }


def _address(where: Listen) -> dict[str, Any]:
    return {"socket_address": {"address": where.host, "port_value": where.port}}


def _is_ip(host: str) -> bool:
    return host.replace(".", "").isdecimal() or ":" in host


class _Plain(yaml.SafeDumper):
    """Without references: what stands in two places is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
