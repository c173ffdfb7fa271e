"""What looks like a secret is neither taken over nor shown."""

from __future__ import annotations

import pytest

from bridge.model import CONFIDENTIAL, LOST, Instance, Traits
from bridge.sources.scrub import Scrub, as_written, disclosed, lost

NOTHING = Traits(frozenset())
SCRUB = Scrub(("*password*", "*token*", "*secret*"))


def test_secret_metadata_is_left_out_and_other_records_are_the_same_object() -> None:
    plain = Instance("i1", "192.0.2.1", metadata={"team": "pay"})
    assert SCRUB(plain) is plain
    clean = SCRUB(Instance("i1", "192.0.2.1", metadata={"team": "pay", "API_Token": "x"}))
    assert clean.metadata == plain.metadata
    assert as_written(clean, NOTHING) == plain
    assert lost(clean, NOTHING) == ["metadata API_Token (bridge.secrets)"]


def test_what_only_one_layout_may_know_goes_to_it_and_to_no_disk() -> None:
    key = f"{CONFIDENTIAL}dubbo2"
    instance = Instance("i1", "192.0.2.1", native={"dubbo2": "{}", key: "hush", LOST: "user name"})
    own = Traits(frozenset(), confidential=key)
    assert as_written(instance, own).native == {"dubbo2": "{}", key: "hush"}
    assert as_written(instance, NOTHING).native == {"dubbo2": "{}"}
    assert disclosed(instance).native == {"dubbo2": "{}", LOST: "user name"}
    assert lost(instance, own) == ["user name"]
    assert lost(instance, NOTHING) == ["user name", "what only dubbo2 may know (a token)"]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (
            '{"id":"i1","metadata":{"api_token":"a\\"b,c","team":"pay"}}',
            '{"id":"i1","metadata":{"api_token":***,"team":"pay"}}',
        ),
        ("metadata: {db-password: hunter2, team: pay}", "metadata: {db-password: ***, team: pay}"),
        ("metadata:\n  client.secret: 'hunter2'\n  team: pay", "metadata:\n  client.secret: ***\n  team: pay"),
        ("dubbo://192.0.2.1/x?token=abc&team=pay", "dubbo://192.0.2.1/x?token=***&team=pay"),
        (
            "dubbo%3A%2F%2F192.0.2.1%2Fx%3Fa%3D1%26token%3Dabc%26team%3Dpay",
            "dubbo%3A%2F%2F192.0.2.1%2Fx%3Fa%3D1%26token%3D***%26team%3Dpay",
        ),
        (r'{"payload":"{\"token\":\"abc\",\"team\":\"pay\"}"}', r'{"payload":"{\"token\":***,\"team\":\"pay\"}"}'),
        (
            '{"endpoints":["grpc://192.0.2.1:9000"],"tokens":null}',
            '{"endpoints":["grpc://192.0.2.1:9000"],"tokens":***}',
        ),
    ],
)
def test_a_raw_record_is_shown_without_the_values_of_secrets(raw: str, shown: str) -> None:
    assert SCRUB.hidden(raw) == shown
