"""A program that uses py-eureka-client as its documentation shows: `with_eureka.py URL register|discover ...`.

register SERVICE INSTANCES: registers each of a JSON list of {id, address, port, meta}, keeps them alive, and cancels
them at the end.
discover SERVICE: says the instances that are UP, again and again, a line of JSON each: as for register.
It ends with its standard input. The client reads XML, which no other reader here does.
"""

import asyncio
import json
import sys

from py_eureka_client.eureka_client import EurekaClient  # type: ignore[import-not-found]  # see apart.py

RENEWAL = 1  # seconds: it asks for changes when it sends its heartbeat


async def main(url: str, job: str, service: str, instances: str = "[]") -> None:
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    every = {"eureka_server": url, "app_name": service, "renewal_interval_in_secs": RENEWAL}
    if job == "register":
        await register(every, json.loads(instances), ended)
    else:
        await discover(EurekaClient(should_register=False, **every), service, ended)


async def register(every: dict[str, object], fleet: list[dict[str, object]], ended: asyncio.Task[str]) -> None:
    clients = [
        EurekaClient(
            should_discover=False,
            instance_id=one["id"],
            instance_ip=one["address"],
            instance_host=one["address"],
            instance_port=one["port"],
            metadata=one["meta"],
            **every,
        )
        for one in fleet
    ]
    for client in clients:
        await client.start()
    say("registered")
    await ended
    for client in clients:
        await client.stop()


async def discover(client: EurekaClient, service: str, ended: asyncio.Task[str]) -> None:
    await client.start()
    while not ended.done():
        application = client.applications.get_application(service.upper())
        found = application.up_instances if application is not None else []
        say("found", {one.instanceId: read(one) for one in found})
        await asyncio.wait([ended], timeout=RENEWAL / 4)
    await client.stop()


def read(one: "object") -> dict[str, object]:
    said = vars(one)
    return {"address": said["ipAddr"], "port": said["port"].port, "meta": said["metadata"]}


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
