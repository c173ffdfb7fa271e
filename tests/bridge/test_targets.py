"""What a link asks of its target that the target cannot do is a fault of the file, at its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge import config
from bridge.errors import ConfigError

FILE = """\
bridge: {{id: b, state: ./state}}
registries:
  inventory: {{kind: file, path: ./inventory}}
  core: {{kind: etcd, endpoints: ["http://127.0.0.1:1"], layout: kratos}}
  dubbo: {{kind: zookeeper, hosts: ["127.0.0.1:1"], layout: dubbo2}}
links:
  - {{name: one, policy: sync, services: {{include: ["*"]}}, {link}}}
"""


@pytest.mark.parametrize(
    ("link", "fault"),
    [
        (
            "from: core, to: inventory, lifetime: leased, ttl: 2h",
            "isthmus.yaml:7: links[0].lifetime: file has no leases",
        ),
        ("from: inventory, to: core, unhealthy: mark", "isthmus.yaml:7: links[0].unhealthy: core has no health"),
        ("from: core, to: dubbo", "isthmus.yaml:7: links[0].to: core cannot be written to dubbo"),
    ],
)
def test_a_target_is_asked_only_for_what_it_can_do(tmp_path: Path, link: str, fault: str) -> None:
    path = tmp_path / "isthmus.yaml"
    path.write_text(FILE.format(link=link))
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert [text for text in raised.value.faults if fault in text]
