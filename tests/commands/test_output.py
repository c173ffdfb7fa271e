"""What commands print: tables within 100 columns, and no name that forges a row or steers a terminal."""

from __future__ import annotations

import ast
import json

import pytest

from bridge.cli.output import WIDTH, change_of, print_holds, print_plan, print_table
from tests.kit.running import ROOT

EVIL = "pay\x1b[2J\r\nforged  row\x07\u202e"
ESCAPED = "pay\\x1b[2J\\r\\nforged  row\\x07\\u202e"
HOLD = {
    "id": "4f2a90c1d3e7",
    "link": "a-long-inventory-name-to-a-long-cluster-name",
    "scope": "inventory",
    "cause": "event",
    "rule": "source_share: 40 of 100 instances of inventory would go within 600 s, and 10 may",
    "services": 12,
    "instances": 40,
    "age": 12.0,
    "due_in": None,
    "items": [["a-to-b", "pay-api", "i1"]],
}


def test_only_the_module_for_output_prints() -> None:
    for path in (ROOT / "bridge" / "cli").glob("*.py"):
        calls = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Attribute) and node.attr in ("echo", "secho")
        ]
        assert path.name in ("output.py", "file.py", "begin.py") or not calls, path


def test_a_name_forges_no_row_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"service": EVIL, "reason": EVIL}], ("service", "reason"))
    _, row, *rest = capsys.readouterr().out.splitlines()
    assert (row, rest) == (f"{ESCAPED}  {ESCAPED}", [])


def test_one_endless_name_fills_no_screen(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"service": "x" * 65_536, "reason": "y" * 65_536}], ("service", "reason"))
    assert all(len(line) <= WIDTH for line in capsys.readouterr().out.splitlines())


def test_plans_and_holds_fit_100_columns_and_name_what_frees_them(capsys: pytest.CaptureFixture[str]) -> None:
    change = {
        "action": "remove",
        "link": HOLD["link"],
        "to": "core",
        "service": "a-namespace:a-service-with-a-long-name",
        "instance": "10.0.0.1-20880-com.example.Interface",
        "cause": "event",
        "held": HOLD["rule"],
        "before": {"address": "192.0.2.1", "ports": [{"number": 9000}]},
        "after": None,
    }
    frozen = {HOLD["link"]: {"reason": "maintenance", "by": "uid=0"}}
    print_plan({"changes": [change], "holds": [HOLD], "not_written": [], "freezes": frozen})
    out = capsys.readouterr().out
    assert "isthmus approve 4f2a90c1d3e7 --reason R" in out and "frozen: " in out and "4f2a90c1d3e7" in out
    print_holds([{**HOLD, "due_in": 20.0}])
    assert "goes in 20 s if a fresh read agrees; at once: isthmus approve" in capsys.readouterr().out
    tables = [line for line in out.splitlines() if "isthmus approve" not in line and "frozen" not in line]
    assert all(len(line) <= WIDTH for line in tables)


def test_an_update_shows_the_fields_that_differ() -> None:
    before = {"address": "192.0.2.1", "weight": 1, "metadata": {"a": "b"}}
    after = {"address": "192.0.2.1", "weight": 2, "metadata": {"a": "c"}}
    said = change_of({"before": before, "after": after})
    assert said == f"weight 1 -> 2; metadata {json.dumps({'a': 'b'})} -> {json.dumps({'a': 'c'})}"
