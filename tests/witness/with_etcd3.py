"""A program that uses etcd3 as its documentation shows: `with_etcd3.py HOST:PORT register|discover ...`.

register KEY VALUE...: puts values under a lease, keeps it alive, and revokes it at the end.
discover PREFIX: says what there is, then what comes and goes, a line of JSON each.
It ends with its standard input.
"""

import json
import sys
import threading

import etcd3  # type: ignore[import-not-found]  # it is in another environment than this test's

TTL = 6  # seconds


def main(address: str, job: str, *words: str) -> None:
    host, _, port = address.partition(":")
    client = etcd3.client(host=host, port=int(port))
    if job == "register":
        register(client, *words)
    else:
        discover(client, *words)


def register(client: etcd3.Etcd3Client, *records: str) -> None:
    lease = client.lease(TTL)
    for key, value in zip(records[::2], records[1::2], strict=True):
        client.put(key, value, lease)
    say("registered")
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    while not ended.wait(TTL / 3):
        lease.refresh()
    lease.revoke()


def discover(client: etcd3.Etcd3Client, prefix: str) -> None:
    events, cancel = client.watch_prefix(prefix)
    for value, about in client.get_prefix(prefix):
        say("put", about.key.decode(), value.decode())
    say("listed")

    def follow() -> None:
        for event in events:
            gone = isinstance(event, etcd3.events.DeleteEvent)
            say("delete" if gone else "put", event.key.decode(), "" if gone else event.value.decode())

    threading.Thread(target=follow, daemon=True).start()
    sys.stdin.read()
    cancel()


def say(*words: str) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
