"""A link into a stream has a picture, of which there is one of each name, and whoever reads one says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import load as config
from bridge.config.kinds import adapter
from bridge.config.schema import Configuration
from bridge.errors import ConfigError
from bridge.model import ServiceName
from bridge.plan.route import target_of

FILE = """\
bridge: {{id: b, state: ./state}}
registries:
  core: {{kind: memory}}
  legacy: {{kind: memory}}
  stream: {{kind: kafka, bootstrap_servers: ["127.0.0.1:9092"]}}
links:
{links}
"""
REST = 'policy: sync, services: {include: ["*"]}'


def load(tmp_path: Path, *links: str) -> Configuration:
    path = tmp_path / "isthmus.yaml"
    path.write_text(FILE.format(links="\n".join(f"  - {{{link}, {REST}}}" for link in links)))
    return config.load(path)


def test_equal_names_of_two_registries_stand_apart_by_their_pictures(tmp_path: Path) -> None:
    links = load(
        tmp_path, "from: core, to: stream", "from: legacy, to: stream", "from: [legacy, core], to: stream, as: all"
    )
    traits = adapter("kafka").mapping.TRAITS
    names = [target_of(link, "core", ServiceName("pay", "eu"), traits)[0] for link in links.links]
    assert names == [ServiceName("pay", f"{picture}/eu") for picture in ("core", "legacy", "all")]
    assert target_of(links.links[0], "core", ServiceName("pay"), traits)[0] == ServiceName("pay", "core")


@pytest.mark.parametrize(
    ("links", "fault"),
    [
        (["from: [core, legacy], to: stream"], "as: missing; name the picture of core, legacy, e.g. as: all"),
        (["from: [core, legacy], to: stream, as: core"], "'core' is one of the registries it is merged of"),
        (["from: core, to: legacy, as: other"], "as: legacy keeps no pictures; remove it"),
        (["from: core, to: stream", "from: core, to: stream, as: core, name: two"], "'core' is the picture of"),
        (["from: stream, to: core"], "would be merged unasked; name the picture: stream/NAME"),
        (["from: stream, to: core", "from: legacy, to: stream"], "that are meant, of this file's stream/legacy"),
        (["from: [stream/core, stream/core/dc1], to: legacy"], "stream/core is all of its scopes, core/dc1 among them"),
    ],
)
def test_what_a_picture_cannot_be_is_a_fault_of_the_file(tmp_path: Path, links: list[str], fault: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load(tmp_path, *links)
    assert [text for text in raised.value.faults if fault in text], raised.value.faults
