"""What a migration's gates ask of a real Prometheus, which scrapes counters of both sides."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adapters.prometheus.query import REST
from bridge.adapter import Meter
from bridge.config import kinds
from bridge.errors import ConfigError, Denied, Rejected, Unavailable
from bridge.migration import asking, gates
from bridge.migration.gates import Look, Result, Timing
from bridge.model import ServiceName
from tests.conftest import provided
from tests.kit.metered import ERRORS, REQUESTS, metered
from tests.kit.waiting import until
from tests.servers.certificates import Certificates
from tests.servers.nginx import Nginx
from tests.servers.prometheus import Prometheus

PAY = ServiceName("pay")
STEP = Timing(begun=0.0, settled=0.0, settle=2.0, scrape=0.2)
HASH = "$2b$04$uWTrHKvBVVVSEzFkMy.y6.KyBUafaw0u8bCmf042JVNeWioYzm8Yq"  # bcrypt of "geheim"


def block(url: str, *queries: dict[str, Any], **other: Any) -> gates.Prometheus:
    made = tuple(gates.Query(**one) for one in queries)
    sides = gates.Sides(from_="vm", to="k8s")
    return gates.Prometheus(url=url, sides=sides, requests=REQUESTS, queries=made, scrape=0.2, **other)


def meter(of: gates.Prometheus) -> Meter:
    return kinds.meter("prometheus", of.connection, time.time)


async def looked(of: gates.Prometheus, service: ServiceName = PAY) -> dict[str, Look]:
    asked = meter(of)
    try:
        looks = [(one.name, await asking.look(asked, of, one, service, STEP, time.time())) for one in of.queries]
        return {name: look for name, look in looks if look is not None}
    finally:
        await asked.close()


def errors(**limits: Any) -> dict[str, Any]:
    return {"name": "errors", "query": ERRORS, "min_samples": 10, **limits}


async def concluded(of: gates.Prometheus, service: ServiceName, **results: Result) -> dict[str, Look]:
    """The looks, as soon as they come to this: the window is full of the load as it is."""

    async def come() -> dict[str, Look]:
        looks = await looked(of, service)
        found = {name: looks[name].result for name in results}
        return looks if found == results else {}

    looks: dict[str, Look] = await until(come, f"{service}: {results}", every=0.2)
    return looks


ODD = {
    "misspelt": Result.NO_DATA,
    "many": Result.NO_DATA,
    "range": Result.NO_DATA,
    "broken": Result.NO_DATA,
    "scalar": Result.FAIL,
}


async def test_real_counters_fail_a_sick_side_and_pass_a_healthy_one(tmp_path: Path) -> None:
    with provided():
        async with metered() as counters, Prometheus(tmp_path, [counters.scrape]) as server:
            counters.each = {
                ("pay", "vm", "200"): 990, ("pay", "vm", "500"): 10,
                ("pay", "k8s", "200"): 99, ("pay", "k8s", "500"): 1,
                ("sick", "vm", "200"): 990, ("sick", "vm", "500"): 10,
                ("sick", "k8s", "200"): 75, ("sick", "k8s", "500"): 25,
                ("idle", "vm", "200"): 0, ("idle", "k8s", "200"): 0, ("idle", "k8s", "500"): 0,
            }  # fmt: skip
            url = f"http://{server.address}"
            of = block(
                url,
                errors(fail_above=0.05, worse_by=0.5),
                {"name": "worse", "query": ERRORS, "worse_by": 0.5},
                {"name": "counted", "query": "vector(1)", "fail_above": 1, "min_samples": 10},
                {"name": "misspelt", "query": "sum(rate(requests_totl[{{window}}]))", "fail_above": 1},
                {"name": "many", "query": "reqs_total", "fail_above": 1},
                {"name": "range", "query": "reqs_total[1m]", "fail_above": 1},
                {"name": "broken", "query": "sum(", "fail_above": 1},
                {"name": "scalar", "query": "scalar(vector(2))", "fail_above": 1},
            )
            pay, sick, idle = [
                await concluded(of, ServiceName(name), **results)
                for name, results in {
                    "pay": {"errors": Result.PASS, "worse": Result.PASS, **ODD},
                    "sick": {"errors": Result.FAIL, "worse": Result.FAIL, **ODD},
                    "idle": {"errors": Result.NO_DATA, "worse": Result.NO_DATA, **ODD},
                }.items()
            ]
            assert pay["errors"].values == pytest.approx({"from": 0.01, "to": 0.01})
            assert sick["errors"].values["to"] == pytest.approx(0.25)
            assert 'service="sick",side="k8s",code="500"}[2s]' in sick["errors"].query
            assert "NaN" in idle["worse"].reason and "0 requests, and 10 are needed" in idle["counted"].reason
            assert "no series" in pay["misspelt"].reason and "series, and a gate needs one" in pay["many"].reason
            assert "gives a matrix" in pay["range"].reason and "refuses the query" in pay["broken"].reason
            asked = meter(of)
            measured = await asking.measure(asked, of, PAY, 2.0, time.time())
            assert measured.share == pytest.approx(100 / 1100, abs=0.02)
            nothing = await asking.measure(asked, of, ServiceName("idle"), 2.0, time.time())
            assert nothing.share is None and nothing.from_ == nothing.to == 0
            await counters.close()
            small = block(url, errors(fail_above=0.05))
            unscraped = await concluded(small, PAY, errors=Result.NO_DATA)
            assert "no series" in unscraped["errors"].reason
            await server.stop()
            away = await looked(small)
            assert away["errors"].result is Result.NO_DATA and "gave no answer" in away["errors"].reason
            assert "gave no answer" in (await asking.measure(asked, of, PAY, 2.0, time.time())).why
            await asked.close()


async def test_credentials_are_shown_and_read_anew_when_they_change(tmp_path: Path, certificates: Certificates) -> None:
    server, client = certificates.server, certificates.client
    web = {
        "tls_server_config": {
            "cert_file": str(server.cert), "key_file": str(server.key),
            "client_ca_file": str(certificates.ca), "client_auth_type": "RequireAndVerifyClientCert",
        },
        "basic_auth_users": {"isthmus": HASH},
    }  # fmt: skip
    password = tmp_path / "password"
    password.write_text("wrong\n")
    tls = gates.Tls(ca=str(certificates.ca), cert=str(client.cert), key=str(client.key))
    with provided():
        async with Prometheus(tmp_path, web=web) as secured:
            url = f"https://{secured.address}"
            who = {"username": "isthmus", "password_file": str(password)}
            asked, bare = meter(block(url, tls=tls, **who)), meter(block(url, tls=gates.Tls(ca=tls.ca), **who))
            with pytest.raises(Denied, match="the password of"):
                await asked.ask("vector(1)")
            password.write_text("geheim")
            assert (await asked.ask("vector(1)")).value == 1
            with pytest.raises((Denied, Unavailable)):
                await bare.ask("vector(1)")
            await asked.close()
            await bare.close()


async def test_a_token_passes_what_stands_in_front_of_prometheus(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong")
    with provided():
        async with Prometheus(tmp_path) as server:
            proxy = Nginx(tmp_path)
            rule = 'if ($http_authorization != "Bearer right") { return 401; }'
            location = f"location /prom/ {{ {rule} proxy_pass http://{server.address}/; }}"
            (tmp_path / "locations" / "prom.conf").write_text(location)
            async with proxy:
                asked = meter(block(f"http://127.0.0.1:{proxy.port}/prom", token_file=str(token)))
                with pytest.raises(Denied, match="the token of"):
                    await asked.ask("vector(1)")
                token.write_text("right")
                sample = await asked.ask("vector(1)")
                assert sample.value == 1
                assert (await asked.ask("time()", sample.at)).value == pytest.approx(sample.at)
                with pytest.raises(Rejected):
                    await asked.ask("vector(")
                await asked.close()


async def test_one_that_gives_no_answer_is_not_waited_for_by_every_gate(tmp_path: Path) -> None:
    with provided():
        async with Prometheus(tmp_path) as server:
            now = 0.0  # by a clock that stands still, however long the machine takes
            asked = kinds.meter("prometheus", block(f"http://{server.address}").connection, lambda: now)

            async def answers() -> bool:
                nonlocal now
                now += REST  # one that began a moment ago may have given no answer in time
                with suppress(Unavailable):
                    return (await asked.ask("vector(1)")).value == 1
                return False

            try:
                await until(answers)
                server.freeze()
                with pytest.raises(Unavailable, match="gave no answer within 5 s"):
                    await asked.ask("vector(1)")
                server.thaw()
                with pytest.raises(Unavailable, match="gave no answer within 5 s"):
                    await asked.ask("vector(1)")
            finally:
                await asked.close()


def test_an_address_that_is_none_is_a_fault_of_the_file() -> None:
    with pytest.raises(ConfigError, match="url: 'prometheus:9090' is no URL"):
        meter(block("prometheus:9090"))
