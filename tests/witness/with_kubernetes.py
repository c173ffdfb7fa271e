"""A program that uses the official client of Kubernetes: `with_kubernetes.py KUBECONFIG register|discover ...`.

register NAMESPACE SERVICE INSTANCES: makes a Service that may be exported and a slice with each of a JSON list of {id,
address, port}, and deletes the slice at the end.
discover NAMESPACE SERVICE: says the ready endpoints, now and after each change, a line of JSON each: the arguments of
register, with the address of the Service.
It ends with its standard input. The client's models judge every field of an answer.
"""

import contextlib
import json
import sys
import threading
from typing import Any

from kubernetes import client, config, watch

NAME = "kubernetes.io/service-name"


def main(kubeconfig: str, job: str, *words: str) -> None:
    config.load_kube_config(kubeconfig)  # type: ignore[no-untyped-call]
    core, discovery = client.CoreV1Api(), client.DiscoveryV1Api()
    if job == "register":
        register(core, discovery, *words)
    else:
        threading.Thread(target=discover, args=(core, discovery, *words), daemon=True).start()
        sys.stdin.read()


def register(
    core: client.CoreV1Api, discovery: client.DiscoveryV1Api, namespace: str, service: str, instances: str
) -> None:
    fleet = json.loads(instances)
    spec = client.V1ServiceSpec(cluster_ip="None", ports=[client.V1ServicePort(name="grpc", port=fleet[0]["port"])])
    meta = client.V1ObjectMeta(name=service, annotations={"isthmus.io/export": "true"})
    with contextlib.suppress(client.ApiException):  # another of this service has made it
        core.create_namespaced_service(namespace, client.V1Service(metadata=meta, spec=spec))
    endpoints = [
        client.V1Endpoint(
            addresses=[one["address"]],
            conditions=client.V1EndpointConditions(ready=True),
            target_ref=client.V1ObjectReference(kind="Pod", name=one["id"]),
        )
        for one in fleet
    ]
    ports = [client.DiscoveryV1EndpointPort(name="grpc", port=fleet[0]["port"], app_protocol="grpc")]
    name = f"{service}-{fleet[0]['id']}"
    meta = client.V1ObjectMeta(name=name, labels={NAME: service})
    made = client.V1EndpointSlice(metadata=meta, address_type="IPv4", endpoints=endpoints, ports=ports)
    discovery.create_namespaced_endpoint_slice(namespace, made)
    say("registered")
    sys.stdin.read()
    discovery.delete_namespaced_endpoint_slice(name, namespace)


def discover(core: client.CoreV1Api, discovery: client.DiscoveryV1Api, namespace: str, service: str) -> None:
    known: dict[str, dict[str, Any]] = {}
    chosen = {"label_selector": f"{NAME}={service}"}
    watching: Any = watch.Watch
    for event in watching().stream(discovery.list_namespaced_endpoint_slice, namespace, **chosen):
        found = event["object"]
        known[found.metadata.name] = {} if event["type"] == "DELETED" else ready(found)
        say("found", {id: one for some in known.values() for id, one in some.items()})
        if event["type"] == "ADDED":
            there: Any = core.read_namespaced_service(service, namespace)
            say("service", there.spec.cluster_ip, [port.name for port in there.spec.ports])


def ready(found: Any) -> dict[str, Any]:
    (port,) = found.ports
    return {
        each.target_ref.name: {"address": each.addresses[0], "port": port.port}
        for each in found.endpoints or ()
        if each.conditions.ready
    }


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
