"""What machines ask: health, readiness and metrics, in the forms that they know."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge import __version__
from bridge.daemon.health import CONNECTIONS, Web
from bridge.daemon.metrics import BUCKETS, Metrics
from bridge.errors import ConfigError
from tests.kit.disks import hung

STATUS: dict[str, Any] = {
    "scopes": [
        {"registry": "core", "scope": "", "state": "synced", "age": 0.0, "services": 2, "instances": 5, "doubt": ""},
        {"registry": "dc", "scope": 'we"st', "state": "known", "age": 7.5, "services": 1, "instances": 1, "doubt": "x"},
        {"registry": "dc", "scope": "new", "state": "unknown", "age": None, "services": 0, "instances": 0, "doubt": ""},
    ],
    "links": [
        {"link": "a-to-b", "held": 3, "parked": 1, "shadowed": 2, "lag": 0.25, "frozen": True, "role": "writer"},
        {"link": "b-to-a", "held": 0, "parked": 0, "shadowed": 0, "lag": 0.0, "frozen": False, "role": "standby"},
    ],
    "credentials": [{"registry": "etcd", "credential": "the client certificate c.pem", "ends": 2e9}],
    "journal_dropped": 4,
    "state_fault": {"since": 1.0, "reason": "full"},
}


def samples(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def metric(found: dict[Any, float], name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_gauges_say_what_the_status_says() -> None:
    found = samples(Metrics(lambda: STATUS, "b").text())
    assert metric(found, "isthmus_scope_synced", registry="core", scope="") == 1
    assert metric(found, "isthmus_scope_synced", registry="dc", scope='we"st') == 0
    assert metric(found, "isthmus_scope_age_seconds", registry="dc", scope='we"st') == 7.5
    assert ("isthmus_scope_age_seconds", (("registry", "dc"), ("scope", "new"))) not in found
    assert metric(found, "isthmus_scope_doubted", registry="dc", scope='we"st') == 1
    assert metric(found, "isthmus_scope_services", registry="core", scope="") == 2
    assert metric(found, "isthmus_scope_instances", registry="core", scope="") == 5
    assert metric(found, "isthmus_link_held", link="a-to-b") == 3
    assert metric(found, "isthmus_link_parked", link="a-to-b") == 1
    named = {"registry": "etcd", "credential": "the client certificate c.pem"}
    assert metric(found, "isthmus_credential_ends_timestamp_seconds", **named) == 2e9
    assert metric(found, "isthmus_link_shadowed", link="a-to-b") == 2
    assert metric(found, "isthmus_link_lag_seconds", link="a-to-b") == 0.25
    assert metric(found, "isthmus_link_frozen", link="a-to-b") == 1
    assert metric(found, "isthmus_link_role", link="a-to-b") == 1
    assert metric(found, "isthmus_link_role", link="b-to-a") == 0
    assert metric(found, "isthmus_journal_dropped_total") == 4
    assert metric(found, "isthmus_state_fault") == 1
    assert any(name == "isthmus_build_info" and ("version", __version__) in labels for name, labels in found)


def test_what_is_written_and_what_fails_is_counted_with_its_time() -> None:
    metrics = Metrics(lambda: STATUS, "b")
    for took in (0.0004, 0.0005, 0.003, 100.0):
        metrics.written("a-to-b", "update", took)
    metrics.written("a-to-b", "remove", 0.003)
    metrics.failed("a-to-b", "conflict")
    found = samples(metrics.text())
    assert metric(found, "isthmus_link_changes_total", link="a-to-b", kind="update") == 4
    assert metric(found, "isthmus_link_changes_total", link="a-to-b", kind="remove") == 1
    assert metric(found, "isthmus_link_errors_total", link="a-to-b", kind="conflict") == 1
    counts = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "isthmus_propagation_seconds_bucket"
    }
    assert set(counts) == {*BUCKETS, float("inf")}
    assert (counts[0.0005], counts[0.002], counts[0.005], counts[60.0], counts[float("inf")]) == (2, 2, 4, 4, 5)
    assert metric(found, "isthmus_propagation_seconds_sum", link="a-to-b") == pytest.approx(100.0069)
    assert metric(found, "isthmus_propagation_seconds_count", link="a-to-b") == 5


class Daemon:
    def __init__(self) -> None:
        self.alive = True
        self.ready = True

    def is_alive(self) -> tuple[bool, dict[str, Any]]:
        return self.alive, {"alive": self.alive}

    def is_ready(self) -> tuple[bool, dict[str, Any]]:
        return self.ready, {"ready": self.ready, "scopes": STATUS["scopes"]}


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
async def ask(daemon: Daemon) -> AsyncIterator[Any]:
    metrics = Metrics(lambda: STATUS, "b")
    async with (
        Web("127.0.0.1:0", daemon.is_alive, daemon.is_ready, metrics.text) as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{web.port}") as session,
    ):

        async def get(path: str, method: str = "GET") -> tuple[int, str, bytes]:
            async with session.request(method, path) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), await answer.read()

        yield get


async def test_health_and_readiness_are_codes_with_a_body_that_says_why(daemon: Daemon, ask: Any) -> None:
    for path, key in (("/healthz", "alive"), ("/readyz", "ready")):
        status, kind, body = await ask(path)
        assert (status, kind, json.loads(body)[key]) == (200, "application/json", True)
        setattr(daemon, key, False)
        status, _, body = await ask(path)
        assert (status, json.loads(body)[key]) == (503, False)
    assert [scope["age"] for scope in json.loads(body)["scopes"]] == [0.0, 7.5, None]


async def test_metrics_come_in_the_form_that_prometheus_reads(ask: Any) -> None:
    status, kind, body = await ask("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert metric(samples(body), "isthmus_link_held", link="a-to-b") == 3


async def test_nothing_else_is_served(ask: Any) -> None:
    for path, method in (("/", "GET"), ("/admin", "GET"), ("/metrics/", "GET"), ("/metrics", "POST"), ("/x", "PUT")):
        status, _, _ = await ask(path, method)
        assert status in (404, 405)


async def test_an_address_that_is_taken_is_said_by_its_key(daemon: Daemon) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"bridge.listen: {listen} cannot be used: .*in use"):
            async with Web(listen, daemon.is_alive, daemon.is_ready, lambda: b""):
                pass


@pytest.fixture
async def port(daemon: Daemon) -> AsyncIterator[int]:
    async with Web("127.0.0.1:0", daemon.is_alive, daemon.is_ready, lambda: b"") as web:
        yield web.port


async def probed(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    status = await reader.readline()
    writer.close()
    return status


async def test_idle_connections_neither_pile_up_nor_keep_a_probe_out(port: int) -> None:
    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS + 50)]
    for _ in range(3):
        assert b" 200 " in await asyncio.wait_for(probed(port), 20)
    ended = [asyncio.create_task(reader.read()) for reader, _ in idle[:50]]
    await asyncio.wait_for(asyncio.wait(ended), 20)  # the oldest were closed
    for each in ended:
        each.exception()
    for _, writer in idle:
        writer.close()


async def test_a_connection_that_sends_no_whole_header_is_closed(daemon: Daemon) -> None:
    async with Web("127.0.0.1:0", daemon.is_alive, daemon.is_ready, lambda: b"", life=0.05) as web:
        reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


@pytest.mark.parametrize(
    "words", [b"nonsense\r\n\r\n", b"GET /\0 HTTP/9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"G" * 9999]
)
async def test_what_is_no_http_is_answered_or_closed_without_a_word_in_the_log(
    port: int, words: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(words)
    writer.write_eof()
    with contextlib.suppress(ConnectionError):
        assert b" 200 " not in await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert b" 200 " in await probed(port)
    assert [one for one in caplog.records if one.exc_info or one.levelno >= logging.WARNING] == []


async def test_a_bug_in_an_answer_is_a_500_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> tuple[bool, dict[str, Any]]:
        raise ZeroDivisionError

    async with Web("127.0.0.1:0", broken, broken, lambda: b"") as web:
        assert b" 500 " in await probed(web.port)
    assert [one.getMessage() for one in caplog.records] == ["bug path='/healthz'"]


async def test_beyond_loopback_only_the_status_is_told(daemon: Daemon) -> None:
    async with (
        Web("0.0.0.0:0", daemon.is_alive, daemon.is_ready, lambda: b"isthmus_up 1") as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{web.port}") as session,
    ):
        daemon.ready = False
        for path, status in (("/healthz", 200), ("/readyz", 503), ("/metrics", 403)):
            async with session.get(path) as answer:
                said = await answer.text()
                assert (answer.status, "scopes" in said, "isthmus_up" in said) == (status, False, False)


async def test_metrics_want_the_token_that_is_in_the_file_now(daemon: Daemon, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")

    async def status(session: aiohttp.ClientSession, said: str) -> int:
        async with session.get("/metrics", headers={"Authorization": said}) as answer:
            return answer.status

    async with (
        Web("0.0.0.0:0", daemon.is_alive, daemon.is_ready, lambda: b"", lambda: str(file)) as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{web.port}") as session,
    ):
        assert [await status(session, said) for said in ("Bearer first", "Bearer other", "", "first")] == [
            200,
            401,
            401,
            401,
        ]
        file.write_text("second\n")
        assert [await status(session, said) for said in ("Bearer first", "Bearer second")] == [401, 200]
        file.write_text("")
        assert await status(session, "Bearer ") == 401
        file.unlink()
        assert await status(session, "Bearer second") == 401


async def test_a_token_file_whose_disk_hangs_keeps_no_probe_waiting(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    token = str(tmp_path / "disk" / "token")
    async with (
        Web("127.0.0.1:0", daemon.is_alive, daemon.is_ready, Metrics(lambda: STATUS, "b").text, lambda: token) as web,
        aiohttp.ClientSession(f"http://127.0.0.1:{web.port}") as session,
    ):

        async def status(path: str) -> int:
            async with session.get(path) as answer:
                return answer.status

        with hung(tmp_path / "disk"):
            measuring = asyncio.ensure_future(status("/metrics"))
            assert [await status(path) for path in ("/healthz", "/readyz")] == [200, 200]
            assert not measuring.done()
        assert await measuring == 401
