"""A program that uses python-consul2 as its documentation shows: `with_consul2.py HOST:PORT register|discover ...`.

register SERVICE INSTANCES: registers each of a JSON list of {id, address, port, meta} at the agent, with a check that
it passes again and again, and deregisters them at the end.
discover SERVICE: says the healthy instances, now and after each change, a line of JSON each: as for register.
It ends with its standard input.
"""

import json
import sys
import threading

import consul  # type: ignore[import-not-found]  # it is in another environment than this test's

TTL = 10  # seconds
WAIT = "5s"


def main(address: str, job: str, *words: str) -> None:
    host, _, port = address.partition(":")
    client = consul.Consul(host=host, port=int(port))
    if job == "register":
        register(client, *words)
    else:
        threading.Thread(target=discover, args=(client, *words), daemon=True).start()
        sys.stdin.read()


def register(client: consul.Consul, service: str, instances: str) -> None:
    fleet = json.loads(instances)
    for one in fleet:
        where = {"address": one["address"], "port": one["port"], "meta": one["meta"]}
        client.agent.service.register(service, service_id=one["id"], check=consul.Check.ttl(f"{TTL}s"), **where)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while True:
        for one in fleet:
            client.agent.check.ttl_pass(f"service:{one['id']}")
        say("registered")
        if ended.wait(TTL / 3):
            break
    for one in fleet:
        client.agent.service.deregister(one["id"])


def discover(client: consul.Consul, service: str) -> None:
    index = None
    while True:
        index, found = client.health.service(service, index=index, wait=WAIT, passing=True)
        say("found", {one["Service"]["ID"]: read(one["Service"]) for one in found})


def read(service: dict[str, object]) -> dict[str, object]:
    return {"address": service["Address"], "port": service["Port"], "meta": service["Meta"]}


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
