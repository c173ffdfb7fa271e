"""`bridge.seat`: a registry that lends its lock, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import load as config
from bridge.errors import ConfigError

FILE = """\
bridge: {{id: b, state: ./state{seat}}}
registries:
  inventory: {{kind: memory}}
  core: {{kind: memory, seat: false}}
  poor: {{kind: memory, seat: false}}
  locks: {{kind: etcd, endpoints: ["http://127.0.0.1:1"], layout: kratos}}
links:
  - {{name: one, from: inventory, to: core, policy: {policy}, services: {{include: ["*"]}}}}
"""


def write(folder: Path, seat: str = "", policy: str = "sync") -> Path:
    path = folder / "isthmus.yaml"
    path.write_text(FILE.format(seat=seat and f", seat: {seat}", policy=policy))
    return path


@pytest.mark.parametrize(
    ("seat", "fault"),
    [
        ("lock", "isthmus.yaml:1: bridge.seat: 'lock' is no registry of this file; did you mean locks?"),
        ("poor", "isthmus.yaml:1: bridge.seat: poor cannot lock; name a registry that can, e.g. one of the kind etcd"),
    ],
)
def test_the_lender_is_a_registry_of_the_file_that_can_lock(tmp_path: Path, seat: str, fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.load(write(tmp_path, seat))
    (text,) = raised.value.faults
    assert text.replace(f"{tmp_path}/", "").startswith(fault)


def warned(path: Path) -> list[str]:
    return [text for text in config.load(path).warnings if "cannot lock" in text]


def test_a_destination_without_a_lock_is_said_to_have_no_standby(tmp_path: Path) -> None:
    (warning,) = warned(write(tmp_path))
    assert "isthmus.yaml:8: links[0].to: core cannot lock" in warning
    assert "no standby" in warning


def test_who_borrows_a_lock_or_writes_nothing_is_not_warned(tmp_path: Path) -> None:
    assert warned(write(tmp_path, "locks")) == []
    assert warned(write(tmp_path, policy="observe")) == []
    assert config.load(write(tmp_path, "locks")).bridge.seat == "locks"


def test_a_registry_that_only_lends_its_lock_is_in_use(tmp_path: Path) -> None:
    unused = [text for text in config.load(write(tmp_path, "locks")).warnings if "no link names" in text]
    assert [text.partition("registries.")[2].partition(":")[0] for text in unused] == ["poor"]
