"""The alert rules and the dashboard speak of metrics that there are, and each alert fires when it should."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge.daemon.attention import Attention
from bridge.daemon.metrics import SHARD_KINDS, Metrics
from tests.conftest import provided
from tests.kit.running import ROOT
from tests.servers import prometheus

RULES = ROOT / "deploy/alerts/isthmus.yaml"
DASHBOARD = ROOT / "deploy/grafana/isthmus.json"
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
INSTANCE = 'job="isthmus", instance="a"'
STEADY = "x60"  # samples, one in ten minutes: longer than any `for`

# Series under which an alert fires, where it is not the metric of `isthmus status`, and series under which it does not.
SERIES = {
    "IsthmusDown": ([(f"up{{{INSTANCE}}}", "0+0")], [(f"up{{{INSTANCE}}}", "1+0")]),
    "IsthmusLinkBehind": (
        [(f'isthmus_link_lag_seconds{{link="l", {INSTANCE}}}', "120+0")],
        [(f'isthmus_link_lag_seconds{{link="l", {INSTANCE}}}', "1+0")],
    ),
    "IsthmusNoWriter": (
        [(f'isthmus_link_role{{link="l", job="isthmus", instance="{host}"}}', "0+0") for host in "ab"],
        [(f'isthmus_link_role{{link="l", job="isthmus", instance="{host}"}}', f"{n}+0") for n, host in enumerate("ab")],
    ),
    "IsthmusShardsUnwritten": (
        [
            (f'isthmus_shards{{link="l", kind="{kind}", {INSTANCE}}}', n)
            for kind, n in (("of", "6+0"), ("writes", "5+0"))
        ],
        [(f'isthmus_shards{{link="l", kind="{kind}", {INSTANCE}}}', "6+0") for kind in ("of", "writes")],
    ),
    "IsthmusNoStandby": (
        [(f'isthmus_link_role{{link="l", {INSTANCE}}}', "1+0")],
        [(f'isthmus_link_role{{link="l", job="isthmus", instance="{host}"}}', f"{n}+0") for n, host in enumerate("ab")],
    ),
}


def series(alert: dict[str, Any], firing: bool) -> list[dict[str, str]]:
    code = alert["labels"]["code"]
    attention = f'isthmus_attention{{code="{code}", level="act", {INSTANCE}}}'
    given = SERIES.get(alert["alert"], ([(attention, "1+0")], [(attention, "0+0")]))[0 if firing else 1]
    return [{"series": name, "values": values + STEADY} for name, values in given]


@pytest.mark.parametrize("firing", [True, False], ids=["fires", "is silent"])
def test_each_alert_fires_when_it_should_and_only_then(firing: bool, tmp_path: Path) -> None:
    with provided():
        promtool = prometheus.programs() / "promtool"
    tests = [
        {
            "interval": "10m",
            "name": alert["alert"],
            "input_series": series(alert, firing),
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{alert["alert"]}", alertstate="firing"}})',
                    "eval_time": "9h",
                    "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
                }
            ],
        }
        for alert in ALERTS
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "10m", "tests": tests}))
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_such_that_prometheus_takes_them() -> None:
    with provided():
        promtool = prometheus.programs() / "promtool"
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def metric_names() -> set[str]:
    """Every name that /metrics can show, suffixes of counters and histograms included."""
    scope = {
        "registry": "r", "scope": "", "state": "synced", "age": 1.0, "behind": 1.0, "doubt": "", "services": 1,
        "instances": 1, "unreadable": 1, "unroutable": 1, "ignored": 1,
    }  # fmt: skip
    link = {
        "link": "l", "role": "writer", "held": 1, "parked": 1, "shadowed": 1, "lag": 1.0, "frozen": False,
        "differs": False, "shards": dict.fromkeys(SHARD_KINDS, 1),
    }  # fmt: skip
    ends = {"registry": "r", "credential": "the token of t", "ends": 1.0}
    move = {"move": "m/pay", "share": 5.0, "requests": 4.9, "step": 2}
    gate = {"move": "m/pay", "gate": "errors", "side": "to", "value": 0.01, "passes": True}
    status = {
        "scopes": [scope], "links": [link], "credentials": [ends], "journal_dropped": 0, "state_fault": None,
        "moves": [move], "gates": [gate],
    }  # fmt: skip
    metrics = Metrics(lambda: status, "b")
    metrics.attention = Attention(list, None).counts
    metrics.written("l", "add", 0.1)
    metrics.failed("l", "Conflict")
    return set(re.findall(r"^(isthmus_[a-z_]+)", metrics.text().decode(), re.MULTILINE))


def named(text: str) -> set[str]:
    return set(re.findall(r"\bisthmus_[a-z_]+\b", text))


def test_alerts_and_dashboard_name_metrics_that_there_are() -> None:
    expressions = [alert["expr"] for alert in ALERTS]
    board = json.loads(DASHBOARD.read_text())
    expressions += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    expressions += [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    found = named(" ".join(expressions))
    assert len(found) > 10
    assert found - metric_names() == set()


def test_the_dashboard_shows_every_gauge_of_scopes_links_and_migrations() -> None:
    shown = named(DASHBOARD.read_text())
    kinds = ("isthmus_scope_", "isthmus_link_", "isthmus_migration_")
    assert {name for name in metric_names() if name.startswith(kinds)} - shown == set()
