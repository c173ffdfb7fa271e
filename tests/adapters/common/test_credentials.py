"""When what a client shows ends, as the files say it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from adapters.common.credentials import certificate_end, ended, named, token_end
from tests.servers.certificates import issue


def jwt(**claims: object) -> str:
    parts = ({"alg": "none"}, claims)
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(one).encode()).decode().rstrip("=") for one in parts), "s"])


def test_a_web_token_says_when_it_ends() -> None:
    found = token_end(jwt(exp=2_000, iat=1_000, sub="isthmus"), "t")
    assert found is not None
    assert (found.what, found.ends, found.begins) == ("the token of t", 2_000, 1_000)
    assert named(found) == "the token of t, which ended at 1970-01-01T00:33:20Z"


@pytest.mark.parametrize(
    "token", ["", "b1946ac9-2b1d", "a.b.c", jwt(sub="x"), jwt(exp="soon"), "a.e30.c", "\xe9.\xe9.\xe9"]
)
def test_what_is_no_web_token_or_has_no_end_says_nothing(token: str) -> None:
    assert token_end(token, "t") is None


def test_a_certificate_says_when_it_ends(tmp_path: Path) -> None:
    made = issue(tmp_path)
    over, good = (certificate_end(one.cert.read_bytes(), "c") for one in (made.expired, made.client))
    assert over is not None and ended(over)
    assert good is not None and not ended(good)
    assert named(good) == "the client certificate c"
    assert certificate_end(made.client.key.read_bytes(), "c") is None
