"""What the printed bootstraps bring beside an address: a client that survives its control plane."""

from __future__ import annotations

import json

import yaml

from adapters.common.listen import Listen
from adapters.xds.bootstrap import Wanted, envoy, grpc

WANTED = Wanted(server=Listen.parse("127.0.0.1:18000"), node="client-1")


def test_an_envoy_finds_its_control_plane_soon_and_notices_one_that_froze() -> None:
    file = yaml.safe_load(envoy(WANTED))
    (service,) = file["dynamic_resources"]["ads_config"]["grpc_services"]
    assert service["envoy_grpc"]["retry_policy"]["retry_back_off"]["max_interval"] == "1s"
    (cluster,) = file["static_resources"]["clusters"]
    (options,) = cluster["typed_extension_protocol_options"].values()
    assert options["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"]["timeout"] == "2s"


def test_a_grpc_client_keeps_what_its_control_plane_does_not_name_for_a_moment() -> None:
    (server,) = json.loads(grpc(WANTED))["xds_servers"]
    assert "ignore_resource_deletion" in server["server_features"]
