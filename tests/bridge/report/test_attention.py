"""Troubles have one code each, in the program, in the alerts and in the runbook; what is acknowledged is silent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bridge.adapter import Credential
from bridge.daemon.attention import Attention
from bridge.daemon.metrics import Metrics
from bridge.report.attention import DAY, KINDS, Finding, _of_link, ends_soon
from tests.kit.running import ROOT

DOWN = {"down", "no-writer", "no-standby", "shards-unwritten"}  # what only somebody else can see


def rules() -> list[dict[str, dict[str, str]]]:
    text = (ROOT / "deploy/alerts/isthmus.yaml").read_text()
    found: list[dict[str, dict[str, str]]] = yaml.safe_load(text)["groups"][0]["rules"]
    return found


def test_each_code_has_an_alert_and_a_heading_and_there_are_no_others() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    headings = re.findall(r"^<a id=\"([a-z-]+)\"></a>\n### `([a-z-]+)`: ", text, re.MULTILINE)
    assert all(anchor == code for anchor, code in headings)
    assert {code for _, code in headings} == KINDS.keys() | DOWN
    assert {rule["labels"]["code"] for rule in rules()} == KINDS.keys() | DOWN
    for rule in rules():
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['labels']['code']}"


def test_the_metric_has_every_code_also_where_all_is_well() -> None:
    attention = Attention(lambda: [Finding("changes-held", "a-to-b", "x", 3)], None)
    counts = attention.counts()
    assert {code for code, _ in counts} == KINDS.keys()
    assert counts["changes-held", "act"] == 1 and sum(counts.values()) == 1
    metrics = Metrics(
        lambda: {"scopes": [], "links": [], "credentials": [], "journal_dropped": 0, "state_fault": None}, "b"
    )
    metrics.attention = attention.counts
    assert b'isthmus_attention{code="changes-held",level="act"} 1.0' in metrics.text()


def test_a_trouble_keeps_the_time_at_which_it_began() -> None:
    now, found = 100.0, [Finding("changes-held", "a-to-b", "3 held", 3)]
    attention = Attention(lambda: found, None, lambda: now)
    attention.rows()
    now = 160.0
    found[0] = Finding("changes-held", "a-to-b", "4 held", 4)
    (row,) = attention.rows()
    assert (row["since"], row["count"], row["level"]) == (100.0, 4, "act")
    found.clear()
    assert attention.rows() == []
    found.append(Finding("changes-held", "a-to-b", "1 held", 1))
    assert attention.rows()[0]["since"] == 160.0


async def test_what_is_acknowledged_is_silent_until_it_grows_or_the_time_is_over(tmp_path: Path) -> None:
    now, found = 100.0, [Finding("instances-parked", "a-to-b", "x", 3)]
    attention = Attention(lambda: found, tmp_path, lambda: now)
    await attention.acknowledge("instances-parked", "a-to-b", 60.0, "known", "uid=0")
    assert attention.open() == [] and attention.rows()[0]["acknowledged"]["reason"] == "known"
    assert Attention(lambda: found, tmp_path, lambda: now).open() == []  # also after a restart
    found[0] = Finding("instances-parked", "a-to-b", "x", 4)
    assert len(attention.open()) == 1
    found[0] = Finding("instances-parked", "a-to-b", "x", 2)
    assert attention.open() == []
    now = 161.0
    assert len(attention.open()) == 1
    with pytest.raises(LookupError, match="there is instances-parked a-to-b"):
        await attention.acknowledge("changes-held", "a-to-b", 60.0, "r", "uid=0")


ROW = {
    "link": "a-to-b",
    "to": "b",
    "held": 0,
    "reused": 0,
    "parked": 0,
    "taken": [],
    "frozen": False,
    "lag": 0.0,
    "differs": False,
    "members": [],
    "role": "writer",
    "reason": "",
}


@pytest.mark.parametrize(("late", "found"), [(0.0, []), (90.0, []), (90.1, ["heartbeats-late"])])
def test_a_round_of_heartbeats_may_be_three_intervals_late(late: float, found: list[str]) -> None:
    renewal = {"entries": 5, "every": 30.0, "late": late, "ends": 604_800}
    said = list(_of_link({**ROW, "renewal": renewal}, "c"))
    assert [one.code for one in said] == found
    assert not list(_of_link({**ROW, "renewal": None}, "c"))
    assert all((one.subject, "604800 s" in one.text) == ("b", True) for one in said)


@pytest.mark.parametrize(
    ("days", "left", "soon"),
    [(365.0, 14.1, False), (365.0, 13.9, True), (365.0, -1.0, True), (None, 13.9, True), (None, 14.1, False),
     (90.0, 30.0, False), (1.0, 0.9, False), (1.0, 0.09, True), (1 / 24, 0.01, False)],
)  # fmt: skip
def test_a_credential_is_told_of_in_time_and_not_while_a_tool_renews_it(
    days: float | None, left: float, soon: bool
) -> None:
    ends = 1e9 + left * DAY
    assert ends_soon(Credential("c", ends, None if days is None else ends - days * DAY), 1e9) is soon


def test_what_others_removed_is_named() -> None:
    (said,) = _of_link({**ROW, "renewal": None, "taken": [f"pay/i{n}" for n in range(7)]}, "c")
    assert (said.code, said.subject, said.count) == ("entries-taken", "a-to-b", 7)
    assert "pay/i0" in said.text and "and 2 more" in said.text


def test_a_link_that_observes_needs_nobody() -> None:
    trouble = {**ROW, "held": 3, "parked": 1, "frozen": True, "lag": 900.0, "reason": "no answer", "renewal": None}
    assert len(list(_of_link(trouble, "c"))) > 3
    assert not list(_of_link({**trouble, "role": "observing"}, "c"))
