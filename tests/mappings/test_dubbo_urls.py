"""What stock Dubbo reads in a provider's URL is what is read of it, part by part.

Seen with `URL.valueOf` and `URLStrParser` of Dubbo 2.7.23 and 3.3.6, which agree on all of these: default values, bare
IPv6 addresses, `;` as a separator, a negative weight (which both load balancers take for 0). So were 9,000 random URLs
that `encode` wrote, and 12,000 that it did not: the two read alike what is read here, but for blanks at the end of a
value, which 2.7.23 cuts off, and keys without a `=`, whose value it takes to be the key.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bridge.errors import Rejected
from bridge.model import LOST, Health, Instance, Port, ServiceName
from mappings import dubbo2
from tests.mappings.layouts import read

NAME = ServiceName("com.foo.V")


def segment(url: str) -> str:
    return quote(url, safe="-_.*").replace("%20", "+").replace("~", "%7E")


def provider(url: str) -> tuple[ServiceName, str, Instance]:
    return read("dubbo2", f"com.foo.V/providers/{segment(url)}", b"")


def copied(name: ServiceName, instance: Instance) -> str:
    return dubbo2.encode(name, instance)[0].partition("/providers/")[2]


@pytest.mark.parametrize(
    ("authority", "address", "port"),
    [
        ("10.0.0.7:20880", "10.0.0.7", 20880),
        ("2001:db8:0:0:0:0:0:1:20880", "2001:db8::1", 20880),
        ("2001:db8::1:20880", "2001:db8::1", 20880),
        ("[2001:db8::7]:20880", "2001:db8::7", 20880),
        ("fe80:0:0:0:0:0:0:1%eth0:20880", "fe80::1%eth0", 20880),
        ("fe80:0:0:0:0:0:0:1%eth0", "fe80::1%eth0", 0),
        ("my_host:20880", "my_host", 20880),
        (":@10.0.0.7:20880", "10.0.0.7", 20880),
        ("10.0.0.7", "10.0.0.7", 0),
        ("10.0.0.7:0", "10.0.0.7", 0),
        ("10.0.0.7:-1", "10.0.0.7", 0),
        ("10.0.0.7:99999", "10.0.0.7", 0),
    ],
)
def test_host_and_port_are_read_as_stock_dubbo_reads_them(authority: str, address: str, port: int) -> None:
    url = f"dubbo://{authority}/com.foo.V?a=b"
    name, _, instance = provider(url)
    assert instance.address == address
    assert [one.number for one in instance.ports] == ([port] if port else [])
    assert copied(name, instance) == segment(url), "a copy is spelled as its provider spelled it"
    moved = replace(instance, address="10.0.0.8", ports=(Port(1, "dubbo", "dubbo"),))
    assert copied(name, moved) == segment("dubbo://10.0.0.8:1/com.foo.V?a=b")


@pytest.mark.parametrize("user", ["me:pw", "me"])
def test_a_user_in_a_url_is_left_out_and_said(user: str) -> None:
    name, id, instance = provider(f"dubbo://{user}@10.0.0.7:20880/com.foo.V?a=b")
    assert instance.native[LOST] == "user name"
    assert "me" not in id + str(instance.native).replace("user name", "")
    assert copied(name, instance) == segment("dubbo://10.0.0.7:20880/com.foo.V?a=b")


@pytest.mark.parametrize(
    ("query", "group", "version", "weight", "health"),
    [
        ("default.group=g&default.version=1.0&default.weight=0", "g", "1.0", 0.0, Health.UNKNOWN),
        ("default.group=g&group=h&version=2&default.version=1", "h", "2", 1.0, Health.UNKNOWN),
        ("group=&default.group=g&weight=&default.weight=7", "", "", 1.0, Health.UNKNOWN),
        ("group=a&group=b", "b", "", 1.0, Health.UNKNOWN),
        ("note=first;group=other;weight=0", "other", "", 0.0, Health.UNKNOWN),
        ("weight=-1", "", "", 0.0, Health.UNKNOWN),
        ("weight=+50", "", "", 0.5, Health.UNKNOWN),
        ("m.weight=7&weight=50", "", "", 0.5, Health.UNKNOWN),
        ("disabled=TRUE", "", "", 1.0, Health.DRAINING),
        ("disabled=yes", "", "", 1.0, Health.UNKNOWN),
        ("enabled=False", "", "", 1.0, Health.DRAINING),
        ("enabled=no", "", "", 1.0, Health.DRAINING),
        ("enabled=&disabled=", "", "", 1.0, Health.UNKNOWN),
        ("default.enabled=false", "", "", 1.0, Health.DRAINING),
        ("default.disabled=true&disabled=false", "", "", 1.0, Health.UNKNOWN),
        ("default.group=a&default.group=b", "a", "", 1.0, Health.UNKNOWN),
    ],
)
def test_parameters_count_as_stock_dubbo_counts_them(
    query: str, group: str, version: str, weight: float, health: Health
) -> None:
    url = f"dubbo://10.0.0.7:20880/com.foo.V?{query}"
    name, _, instance = provider(url)
    assert name == ServiceName("com.foo.V", group)
    assert (instance.version, instance.weight, instance.health) == (version, weight, health)
    form = dubbo2.canonical(name, instance, "")
    assert (form.version, form.weight, form.health) == (version, weight, health)
    if "group=a&" not in query:
        assert copied(name, instance) == segment(url)


@pytest.mark.parametrize(
    ("query", "left", "lost"),
    [
        ("weight=abc&a=b", "weight=100&a=b", "weight=abc (no number)"),
        ("weight=1.5", "weight=100", "weight=1.5 (no number)"),
        ("weight=99999999999", "weight=100", "weight=99999999999 (no number)"),
        ("a=b&default.weight=abc", "a=b", "default.weight=abc (no number)"),
        ("a=b&m.timeout=5s&timestamp=now", "a=b", "m.timeout=5s (no number), timestamp=now (no number)"),
    ],
)
def test_a_number_that_is_none_is_lost_and_not_its_provider(query: str, left: str, lost: str) -> None:
    name, _, instance = provider(f"dubbo://10.0.0.7:20880/com.foo.V?{query}")
    assert instance.native[LOST] == lost
    assert copied(name, instance) == segment(f"dubbo://10.0.0.7:20880/com.foo.V?{left}")


def test_a_message_about_a_url_does_not_repeat_it() -> None:
    for text in ("no-url%3Ftoken%3Dhush", "dubbo%3A%2F%2Fa%3A%3Ftoken%3Dhush", "dubbo%3A%2F%2Fa%3A1%3Ftoken%3Dhush%z"):
        place = dubbo2.locate(f"com.foo.V/providers/{text}")
        assert place is not None
        with pytest.raises(Exception, match="not a provider's URL") as caught:
            dubbo2.decode(*place, text.encode(), "")
        assert "hush" not in f"{caught.value}{place}"


def stock(text: str) -> tuple[str, dict[str, str]]:
    """Host and port, and the parameters, as `URL.valueOf` of Dubbo 2.7.23 finds them: written anew from its rules."""
    from urllib.parse import unquote_plus

    body, _, query = unquote_plus(text).partition("?")
    parameters: dict[str, str] = {}
    for part in query.replace(";", "&").split("&"):
        key, _, value = part.partition("=")
        if key:
            parameters[key] = value
    for key, value in list(parameters.items()):
        if key.startswith("default."):
            parameters.setdefault(key[len("default.") :], value)
    return body.partition("://")[2].partition("/")[0], parameters


texts = st.text(max_size=6) | st.sampled_from(
    [";", "&", "=", "a;group=x", "?", "%", "%26", "+", "://", "@", "#", "a b", "/", "1", "[", "]", "\n"]
)
names = st.sampled_from(
    [
        "default.group",
        "default.version",
        "default.weight",
        "category",
        "enabled",
        "default.disabled",
        "timeout",
        "a.weight",
    ]
)


@settings(deadline=None, max_examples=400)
@given(
    metadata=st.dictionaries(texts | names, texts, max_size=4),
    version=texts,
    group=st.sampled_from(["", "g1", "a;b", "a&b"]),
    weight=st.sampled_from([0.0, 1.0, 0.07]),
)
def test_whatever_is_written_is_read_so_by_stock_dubbo(
    metadata: dict[str, str], version: str, group: str, weight: float
) -> None:
    name = ServiceName("com.foo.V", group)
    given = Instance("i", "2001:db8::7", (Port(20880, "", "dubbo"),), weight=weight, version=version, metadata=metadata)
    try:
        text = copied(name, given)
    except Rejected:
        return
    authority, parameters = stock(text)
    assert authority == "[2001:db8::7]:20880"
    assert parameters.get("group", "") == group
    assert parameters.get("version", "") == version
    assert parameters.get("interface") == "com.foo.V"
    assert int(parameters.get("weight") or 100) == round(weight * 100)
    assert parameters.get("category", "providers") in ("", "providers")
    own = {"interface", "group", "version", "weight"}
    kept = {key: value for key, value in metadata.items() if key.removeprefix("default.") not in own}
    assert kept.items() <= parameters.items()


def test_what_dubbo_consumers_need_of_every_url_is_in_one_of_ours() -> None:
    """Without `application` the list of Dubbo 2.7 freezes, without `weight` Dubbo 3 may regard none: both seen."""
    for metadata in ({}, {"application": ""}):
        instance = Instance("i1", "192.0.2.1", (Port(20880, "", "dubbo"),), metadata=metadata)
        key, _ = dubbo2.encode(ServiceName("com.foo.V"), instance)
        assert unquote_plus(key).endswith("?application=isthmus&interface=com.foo.V&weight=100")
    own = replace(instance, metadata={"application": "pay"}, weight=0.5)
    assert unquote_plus(dubbo2.encode(ServiceName("com.foo.V"), own)[0]).endswith(
        "?application=pay&interface=com.foo.V&weight=50"
    )
