"""Every configuration that is shipped is one that the program takes, and none writes before somebody decides."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bridge.config import load
from bridge.config.document import Document
from bridge.link import Policy
from tests.kit.running import ROOT, isthmus

FILES = sorted([*(ROOT / "deploy/examples").glob("*.yaml"), ROOT / "deploy/kubernetes/isthmus.yaml"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_configuration_has_no_fault_and_writes_nothing_yet(path: Path) -> None:
    links = load.parse(path, Document(path.name, path.read_text()), {}, ephemeral=False).links
    assert links and {link.policy for link in links} == {Policy.OBSERVE}


async def test_check_takes_every_shipped_configuration() -> None:
    ran = await asyncio.gather(*(isthmus("check", "-f", path, "--offline", "-o", "json") for path in FILES))
    for path, one in zip(FILES, ran, strict=True):
        assert (path.name, one.code, one.json["warnings"]) == (path.name, 0, []), one.err


def test_there_is_one_for_each_usual_estate() -> None:
    assert len(FILES) == 6
