"""What a file says of networks: ranges, the network of each registry, and which links may cross."""

from __future__ import annotations

from pathlib import Path

import pytest

from bridge.config import load as config
from bridge.config.document import Document
from bridge.config.schema import Configuration
from bridge.errors import ConfigError

FILE = """\
bridge: {id: b}
networks: NETWORKS
registries:
  vms: {kind: memory, network: vm}
  more: {kind: memory, network: vm}
  pods: {kind: memory, network: pods, cluster: true}
  plain: {kind: memory}
  plainer: {kind: memory, cluster: true}
  twin: {kind: memory, network: pods}
links: [{name: l, policy: sync, services: {include: ["*"]}, LINK}]
"""


def load(link: str, networks: str = "{pods: {cidrs: [10.244.0.0/16]}}") -> Configuration:
    text = FILE.replace("LINK", link).replace("NETWORKS", networks)
    return config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)


def faults(link: str, networks: str = "{}") -> str:
    with pytest.raises(ConfigError) as raised:
        load(link, networks)
    return "\n".join(raised.value.faults)


def test_the_network_of_each_registry_and_the_ranges_are_taken_over() -> None:
    found = load("from: vms, to: pods, network: crosses").networks
    assert found.registries == {"vms": "vm", "more": "vm", "pods": "pods", "twin": "pods"}
    assert found.ranges == (("10.244.0.0/16", "pods"),)


@pytest.mark.parametrize("link", ["from: vms, to: more", "from: plain, to: plainer"])
def test_within_one_network_a_link_says_nothing(link: str) -> None:
    assert not [text for text in load(link).warnings if "network" in text and "links" in text]


@pytest.mark.parametrize(
    "link",
    ["from: vms, to: pods", "from: pods, to: vms", "from: plain, to: vms", "from: [more, pods], to: vms"],
)
def test_a_link_whose_ends_differ_in_network_is_refused_unless_it_crosses(link: str) -> None:
    text = faults(link)
    assert "isthmus.yaml:10: links[0].network: missing: " in text
    assert "write network: crosses if addresses" in text
    assert load(f"{link}, network: crosses")


def test_a_link_that_crosses_nothing_is_warned_of() -> None:
    (text,) = [text for text in load("from: vms, to: more, network: crosses").warnings if "crosses" in text]
    assert text == "isthmus.yaml:10: links[0].network: crosses nothing: both ends are in 'vm'"


def test_what_is_in_a_clusters_own_network_cannot_be_linked_to_it() -> None:
    text = faults("from: twin, to: pods")
    assert "isthmus.yaml:10: links[0].network: twin and the cluster pods are in 'pods'" in text
    assert "write network: crosses" in text


@pytest.mark.parametrize(
    ("networks", "fault"),
    [
        ("{pods: {cidrs: [10.0.0.1/8]}}", "networks.pods.cidrs[0]: 10.0.0.1/8 has host bits set; write 10.0.0.0/8"),
        ("{pods: {cidrs: [ten]}}", "networks.pods.cidrs[0]: 'ten' does not appear to be an IPv4 or IPv6 network"),
        ("{pods: {cidrs: []}}", "networks.pods.cidrs: "),
        ("{pods: {}}", "networks.pods.cidrs: missing"),
        ("{pods: {cidr: [10.0.0.0/8]}}", "networks.pods.cidr: unknown key; did you mean cidrs?"),
        ("{'a b': {cidrs: [10.0.0.0/8]}}", "networks"),
        ("{pods: {cidrs: [10.0.0.0/8]}, vm: {cidrs: [10.0.0.0/8]}}", "networks.vm.cidrs: 10.0.0.0/8 is in pods too"),
    ],
)
def test_a_wrong_range_is_a_fault_at_its_line(networks: str, fault: str) -> None:
    assert f"isthmus.yaml:2: {fault}" in faults("from: vms, to: more", networks)


def test_a_network_that_no_registry_is_in_is_warned_of() -> None:
    texts = load("from: vms, to: more", "{pod: {cidrs: [10.244.0.0/16]}}").warnings
    assert any("networks.pod: no registry is in this network; did you mean pods? known: " in text for text in texts)
