"""The YAML form of an instance: what is written is read back, whatever it holds."""

from __future__ import annotations

import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bridge.errors import Rejected, Undecodable
from bridge.model import Health, Instance, Locality, Mark, Port, ServiceName
from mappings.file import canonical, decode, encode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PORTS = st.builds(Port, st.integers(1, 65535), TEXT, TEXT.map(str.lower), st.booleans())
INSTANCES = st.builds(
    Instance,
    id=TEXT.filter(lambda id: id not in ("", "*")),
    address=st.one_of(st.ip_addresses().map(str), st.just("pay.example.org")),
    ports=st.lists(PORTS, max_size=3).map(tuple),
    health=st.sampled_from(Health),
    weight=st.floats(0, 2**53),
    locality=st.builds(Locality, TEXT, TEXT, TEXT),
    version=TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    metadata=st.dictionaries(TEXT, TEXT, max_size=3),
    native=st.dictionaries(TEXT, TEXT, max_size=2),
)
MARK = Mark("b", "link", ("x", "y"), "dc1", ServiceName("pay", "eu"), "i1")


def fails_well(content: bytes) -> None:
    """Decodes, or raises Undecodable with the line."""
    with contextlib.suppress(Undecodable):
        for fault in decode(content).faults:
            assert fault.partition(":")[0].isdigit()
        return
    with pytest.raises(Undecodable, match=r"^\d+: "):
        decode(content)


@given(st.lists(INSTANCES, max_size=4), st.booleans())
def test_what_is_written_is_read_back(instances: list[Instance], marked: bool) -> None:
    entries = {made.id: (made, MARK if marked else None) for made in map(canonical, instances)}
    content = encode("b", entries)
    decoded = decode(content, "b")
    assert not decoded.faults
    assert decoded.instances == {id: instance for id, (instance, _) in entries.items()}
    assert decoded.marks == {id: mark for id, (_, mark) in entries.items() if mark}
    assert len(yaml.safe_load(content)["instances"]) == len(entries)


@given(INSTANCES)
def test_canonical_is_the_same_object_the_second_time(instance: Instance) -> None:
    made = canonical(instance)
    assert canonical(made) is made


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_no_content_does_more_than_fail(content: bytes) -> None:
    fails_well(content)


@given(st.text(st.sampled_from("instances:\n -{}[]&*!|>'\"#%@`,?a1\t"), max_size=80))
def test_no_yaml_does_more_than_fail(text: str) -> None:
    for content in (text.encode(), f"instances:\n  - {text}".encode(), f"instances: [{text}]".encode()):
        fails_well(content)


def test_a_scalar_is_the_text_that_stands_there() -> None:
    decoded = decode(b"instances:\n- {id: 010, address: h, version: 1.10, tags: [no, 1e3], metadata: {canary: yes}}\n")
    assert decoded.instances["010"] == Instance(
        "010", "h", version="1.10", tags=("no", "1e3"), metadata={"canary": "yes"}
    )


def test_what_could_not_be_read_back_is_rejected() -> None:
    for wrong in (
        Instance("", "192.0.2.1"),
        Instance("*", "192.0.2.1"),
        Instance("i", ""),
        Instance("i", "two words"),
        Instance("i", "192.0.2.1", (Port(0),)),
        Instance("i", "192.0.2.1", weight=float("nan")),
        Instance("i", "192.0.2.1", metadata={"k" * 2000: ""}),
        Instance("i", "192.0.2.1", version="\ud800"),
    ):
        with pytest.raises(Rejected):
            canonical(wrong)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("port: -1", "instances[0].port: "),
        ("port: 1e26", "instances[0].port: "),
        ("port: .inf", "instances[0].port: "),
        ("ports: [{number: 65536}]", "instances[0].ports[0].number: "),
        ("weight: .inf", "instances[0].weight: "),
        ("weight: .nan", "instances[0].weight: "),
        ("weight: 1e26", "instances[0].weight: "),
        ("weight: -1", "instances[0].weight: "),
        ('id: "i1\\n"', "instances[0].id: has the character '\\n'"),
        ('tags: [a, "\\e[2J"]', "instances[0].tags[1]: has the character '\\x1b'"),
        ('ports: [{number: 1, name: "a\\0"}]', "instances[0].ports[0].name: has the character '\\x00'"),
        ('address: "192.0.2.1\\n"', "instances[0].address: "),
    ],
)
def test_what_no_instance_can_have_is_named_with_its_line_and_reason(field: str, said: str) -> None:
    address = "" if field.startswith("address") else "  address: h\n"
    decoded = decode(f"instances:\n- {field}\n{address}- {{id: fine, address: h}}\n".encode())
    assert decoded.instances.keys() == {"fine"}
    (fault,) = decoded.faults
    assert fault.startswith(f"2: {said}")


@pytest.mark.parametrize("weight", [1e26, float("inf"), float("nan"), -1.0])
def test_a_weight_that_no_file_holds_is_refused(weight: float) -> None:
    with pytest.raises(Rejected, match="weight"):
        canonical(Instance("i1", "h", weight=weight))
