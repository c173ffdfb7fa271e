"""Credentials of exec plugins: run once while they last, again when they end, and never before they are needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.kubernetes import Config, create
from adapters.kubernetes.access import Keeper
from bridge.errors import ConfigError


def with_plugin(folder: Path, ends: datetime | None) -> tuple[Path, Path]:
    """A kubeconfig whose exec plugin notes each of its runs, and that file."""
    runs, plugin, kubeconfig = folder / "runs", folder / "plugin", folder / "kubeconfig"
    status = {"token": "t", **({"expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")} if ends else {})}
    api = "client.authentication.k8s.io/v1"
    said = json.dumps({"apiVersion": api, "kind": "ExecCredential", "status": status})
    plugin.write_text(f"#!/bin/sh\necho >> {runs}\ncat <<'END'\n{said}\nEND\n")
    plugin.chmod(0o755)
    runs.touch()
    user = {"exec": {"apiVersion": api, "command": str(plugin), "interactiveMode": "Never"}}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    kubeconfig.write_text(json.dumps(config))
    return kubeconfig, runs


@pytest.mark.parametrize(("hours", "runs"), [(1, 1), (-1, 3)])
async def test_a_plugin_runs_again_when_its_credential_ends(tmp_path: Path, hours: int, runs: int) -> None:
    kubeconfig, ran = with_plugin(tmp_path, datetime.now(UTC) + timedelta(hours=hours))
    keeper = Keeper(str(kubeconfig), None)
    for _ in range(3):
        assert (await keeper.access()).authorization == "Bearer t"
    assert len(ran.read_text()) == runs


async def test_a_refused_credential_is_asked_for_anew(tmp_path: Path) -> None:
    kubeconfig, ran = with_plugin(tmp_path, datetime.now(UTC) + timedelta(hours=1))
    keeper = Keeper(str(kubeconfig), None)
    access = await keeper.access()
    keeper.refused("Bearer an earlier one")
    await keeper.access()
    assert len(ran.read_text()) == 1
    keeper.refused(access.authorization)
    await keeper.access()
    assert len(ran.read_text()) == 2


def test_a_registry_that_is_made_runs_nothing_and_reads_no_kubeconfig(tmp_path: Path) -> None:
    kubeconfig, ran = with_plugin(tmp_path, None)
    create("prod", Config(kubeconfig=str(kubeconfig)), None)
    create("prod", Config(kubeconfig=str(tmp_path / "nowhere")), None)
    assert ran.read_text() == ""


@pytest.mark.parametrize("selector", ["team=pay", "!legacy", "tier in (web, api),team!=x", "a.b/c notin (d)", "x"])
def test_label_selectors_are_taken(selector: str) -> None:
    create("prod", Config(kubeconfig="k", selector=selector), None)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        (Config(kubeconfig="k", selector="team=="), ""),
        (Config(kubeconfig="k", selector="team in pay"), "is no label selector"),
        (Config(kubeconfig="k", selector="a,,b"), "is no label selector"),
        (Config(kubeconfig="k", namespaces=["Shop"]), "is no name of a namespace"),
        (Config(kubeconfig="k", namespaces=["shop", "shop"]), "names one twice"),
        (Config(kubeconfig="k", namespace="a/b"), "is no name of a namespace"),
        (Config(context="prod"), "is a name of the kubeconfig, which is left out"),
    ],
)
def test_a_wrong_block_is_refused_with_what_would_be_right(config: Config, fault: str) -> None:
    if not fault:  # an empty value is one
        create("prod", config, None)
        return
    with pytest.raises(ConfigError, match=fault):
        create("prod", config, None)
