"""A program of its own that asks a group's coordinator what it says of the group: questions and answers are JSON.

librdkafka ends the whole process where a connection breaks while such a request is on its way (its issue 4605). The
program is run by its path, and imports nothing of ours, so that it begins soon.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

AGAIN = 0.1  # seconds until a broker that begins is asked again
NOT_YET = {"NOT_COORDINATOR", "COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS"}  # a broker that begins


def describe(settings: dict[str, Any], group: str, patience: float, *, rights: bool) -> dict[str, Any]:
    """The `members` with the partitions that each should have, and (`rights`) what this client may do.

    Or the name of an `error`, and `why` in words.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    admin, until = AdminClient(settings), time.monotonic() + patience
    options: dict[str, Any] = {"include_authorized_operations": True} if rights else {}
    while True:
        try:
            answers = admin.describe_consumer_groups([group], request_timeout=patience, **options)
            found = answers[group].result(2 * patience)
        except KafkaException as failed:
            error = failed.args[0]
            if error.name() not in NOT_YET or time.monotonic() > until:
                return {"error": error.name(), "why": error.str()}
            time.sleep(AGAIN)
        except TimeoutError:
            return {"error": "TIMED_OUT", "why": "no answer in time"}
        else:
            parts = [(one.client_id, one.assignment.topic_partitions) for one in found.members]
            members = [[who, sorted(part.partition for part in some)] for who, some in parts]
            return {"members": members, "rights": [one.name for one in found.authorized_operations or ()]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe(**json.load(sys.stdin))))
    sys.stdout.flush()
    os._exit(0)  # the end of its client takes its time
