"""The configuration file: every fault is named with file, line, key and remedy, and all of them at once."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import msgspec
import pytest

from adapters import memory
from bridge import link
from bridge.config import json_schema
from bridge.config import load as config
from bridge.config.kinds import KINDS
from bridge.config.schema import Configuration
from bridge.errors import ConfigError
from bridge.model import ServiceName
from bridge.units import Duration, seconds

GOOD = """\
bridge: {id: vm-to-k8s, state: ./state, listen: 127.0.0.1:9797}
registries:
  inventory: {kind: memory}
  core: {kind: memory}
links:
  - from: inventory
    to: core
    policy: sync
    services: {include: ["pay-*"], exclude: ["*-test"]}
"""


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ca: str
    server_name: str | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    endpoints: tuple[str, ...] = ()
    user: str | None = None
    password: str | None = None
    password_file: str | None = None
    tls: Tls | None = None
    wait: Duration = 5.0

    def __post_init__(self) -> None:
        if self.password and not self.user:
            raise ValueError(f"a password ({self.password}) without a user; add user")


@pytest.fixture(autouse=True)
def vault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry kind with TLS and secrets, as another distribution would bring one."""
    module = ModuleType("vault_adapter")
    module.Config = Config  # type: ignore[attr-defined]
    module.create = lambda name, *_: memory.create(name, memory.Config(), None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vault_adapter", module)
    monkeypatch.setitem(KINDS, "vault", "vault_adapter")


def write(folder: Path, text: str) -> Path:
    path = folder / "isthmus.yaml"
    path.write_text(dedent(text))
    return path


def faults(folder: Path, text: str, env: dict[str, str] | None = None) -> list[str]:
    """The faults, with the file's folder left out."""
    path = write(folder, text)
    with pytest.raises(ConfigError) as caught:
        config.load(path, env or {})
    return [fault.replace(f"{folder}/", "") for fault in caught.value.faults]


def test_a_file_with_only_what_is_required_gets_the_documented_defaults(tmp_path: Path) -> None:
    loaded = config.load(write(tmp_path, GOOD), {})
    (only,) = loaded.links
    assert only == link.Link(
        name="inventory-to-core",
        from_=("inventory",),
        to="core",
        policy=link.Policy.SYNC,
        services=link.Services(include=("pay-*",), exclude=("*-test",)),
    )
    assert msgspec.structs.asdict(only.guard) == {
        "window": 600,
        "service_share": 0.5,
        "last_instance": "hold",
        "source_share": 0.1,
        "source_count": 10,
        "hard_share": 0.5,
        "hard_count": 5,
        "confirm_event": 30,
        "confirm_absence": 300,
    }
    assert loaded.bridge.resync == 600
    assert loaded.bridge.state == str(tmp_path / "state")
    assert loaded.bridge.secrets == ("*password*", "*token*", "*secret*")
    assert loaded.warnings == ()


def test_the_example_of_the_documentation_is_read_as_it_says(tmp_path: Path) -> None:
    loaded = config.load(
        write(
            tmp_path,
            """\
            bridge: {id: b, state: /var/lib/isthmus, resync: 1h30m}
            registries: {a: {kind: memory}, b: {kind: memory}, c: {kind: memory}}
            links:
              - name: both
                from: [a, b]
                to: c
                policy: upsert-only
                services: {include: ["pay-*"]}
                where: {team: "pay-*"}
                rename: "{namespace}-{name}"
                port: 8080
                unhealthy: withdraw
                guard: {window: 10m, service_share: 0.25, last_instance: pass, confirm_event: 1.5}
                guard_for: [{services: ["batch-*"], last_instance: hold, window: 1m}]
              - {from: c, to: a, policy: sync, services: {include: [x]}, lifetime: leased, ttl: 2h, port: grpc}
            """,
        ),
        {},
    )
    both, back = loaded.links
    assert (both.name, both.from_, both.port, both.unhealthy) == ("both", ("a", "b"), 8080, link.Unhealthy.WITHDRAW)
    assert both.guard == link.Guard(service_share=0.25, last_instance="pass", confirm_event=1.5)
    batch = msgspec.structs.asdict(both.guard) | {"last_instance": "hold", "window": 60.0}
    assert msgspec.structs.asdict(both.limits(ServiceName("batch-1"))) == batch | {"services": ("batch-*",)}
    assert both.limits(ServiceName("pay")) == both.guard
    assert (back.name, back.ttl, back.port) == ("c-to-a", 7200, "grpc")
    assert loaded.bridge.resync == 5400


def link_with(lines: str) -> str:
    """A good file whose link (line 5 and on) has these lines instead of the usual ones."""
    return "bridge: {id: b, state: s}\nregistries:\n  a: {kind: memory}\n  b: {kind: memory}\nlinks:\n" + dedent(lines)


LINK = "- {from: a, to: b, policy: sync, services: {include: [x]}"

TABLE = {
    "no mapping": ("[]", ["1: should be a mapping with the keys bridge, registries and links"]),
    "empty": ("", ["1: should be a mapping with the keys bridge, registries and links"]),
    "no yaml": ("bridge: [\n", ["2: no valid YAML: did not find expected node content"]),
    "a second document": (f"{GOOD}---\nx: 1\n", ["10: no valid YAML: but found another document"]),
    "a tag": ("bridge: !python/none x\n", ["1: no valid YAML: could not determine a constructor"]),
    "an unknown top key": (GOOD + "linkz: []\n", ["10: linkz: unknown key; did you mean links? known: bridge, links"]),
    "a key twice": (
        GOOD + "    policy: observe\n",
        ["10: links[0].policy: the key is there twice, first in line 8; remove one"],
    ),
    "a registry twice": (
        GOOD.replace("  core:", "  inventory:"),
        ["4: registries.inventory: the key is there twice, first in line 3", "7: links[0].to: 'core' is no registry"],
    ),
    "a key that is no text": (
        GOOD.replace("core: {", "12: {").replace("to: core", "to: inventory2"),
        [
            "4: registries.12: this key is no text; put it in quotes",
            "7: links[0].to: 'inventory2' is no registry of this file; did you mean inventory? known: inventory",
        ],
    ),
    "no blocks": ("x: 1", ["1: x: unknown key", "1: bridge: missing", "1: registries: missing"]),
    "no id": (GOOD.replace("id: vm-to-k8s, ", ""), ["1: bridge.id: missing; should be text"]),
    "id of a wrong type": (
        GOOD.replace("id: vm-to-k8s", "id: 12"),
        ["1: bridge.id: is a whole number; should be text (put it in quotes)"],
    ),
    "id with a slash": (GOOD.replace("id: vm-to-k8s", "id: a/b"), ["1: bridge.id: should be str matching regex"]),
    "no state": (
        GOOD.replace("state: ./state, ", ""),
        ["1: bridge.state: missing; should be a folder, e.g. /var/lib/isthmus (or run with --ephemeral)"],
    ),
    "listen": (
        GOOD.replace("127.0.0.1:9797", "'9797'"),
        ["1: bridge.listen: '9797' is no address and port; write e.g. 127.0.0.1:9797"],
    ),
    "listen port": (
        GOOD.replace("127.0.0.1:9797", "127.0.0.1:99999"),
        ["1: bridge.listen: '127.0.0.1:99999' is no address"],
    ),
    "resync": (
        GOOD.replace("id:", "resync: 10 minutes, id:"),
        ["1: bridge.resync: '10 minutes' is no duration; write 500ms, 30s, 10m, 1h30m, 2d or a number"],
    ),
    "resync of a wrong type": (
        GOOD.replace("id:", "resync: true, id:"),
        ["1: bridge.resync: is true or false; should be a number"],
    ),
    "resync of nothing": (GOOD.replace("id:", "resync: 0, id:"), ["1: bridge.resync: should be float >= 1"]),
    "secrets": (
        GOOD.replace("id:", "secrets: [1, ''], id:"),
        ["1: bridge.secrets[0]: is a whole number; should be text", "1: bridge.secrets[1]: '' is empty"],
    ),
    "an unknown kind": (
        GOOD.replace("core: {kind: memory}", "core: {kind: memori}"),
        ["4: registries.core.kind: 'memori' is unknown; did you mean memory? known: "],
    ),
    "no kind": (
        GOOD.replace("core: {kind: memory}", "core: {}"),
        ["4: registries.core.kind: missing; known: "],
    ),
    "a registry that is no mapping": (
        GOOD.replace("core: {kind: memory}", "core: memory"),
        ["4: registries.core: should be a mapping with at least a kind"],
    ),
    "an unknown option": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: memory\n    helth: true"),
        [
            "6: registries.core.helth: unknown key; did you mean health? "
            "known: cluster, fence, health, natives, polls, ports, seat, shared"
        ],
    ),
    "an option of a wrong type": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: memory\n    ports: many\n    health: 1"),
        [
            "6: registries.core.ports: is text; should be a whole number",
            "7: registries.core.health: is a whole number; should be true or false",
        ],
    ),
    "an unknown registry": (
        GOOD.replace("to: core", "to: cor"),
        ["7: links[0].to: 'cor' is no registry of this file; did you mean core? known: core, inventory"],
    ),
    "an unknown source in a list": (
        GOOD.replace("from: inventory", "from: [inventory, nowhere]"),
        ["6: links[0].from: 'nowhere' is no registry of this file; known: core, inventory"],
    ),
    "a link to itself": (
        GOOD.replace("to: core", "to: inventory"),
        ["7: links[0].to: 'inventory' is linked to itself"],
    ),
    "a source twice": (
        GOOD.replace("from: inventory", "from: [inventory, inventory]"),
        ["6: links[0].from: names a registry twice"],
    ),
    "no source": (GOOD.replace("from: inventory", "from: []"), ["6: links[0].from: should be array of length >= 1"]),
    "no policy": (
        GOOD.replace("    policy: sync\n", ""),
        ["6: links[0].policy: missing; should be one of observe, upsert-only, sync; there is no default"],
    ),
    "an unknown policy": (
        GOOD.replace("policy: sync", "policy: mirror"),
        ["8: links[0].policy: 'mirror' is unknown; should be one of observe, upsert-only, sync"],
    ),
    "no include": (
        GOOD.replace('include: ["pay-*"], ', ""),
        ["9: links[0].services.include: missing; should be a list"],
    ),
    "an empty include": (
        GOOD.replace('["pay-*"]', "[]"),
        ["9: links[0].services.include: should be array of length >= 1"],
    ),
    "an include that is no list": (
        GOOD.replace('["pay-*"]', '"pay-*"'),
        ["9: links[0].services.include: is text; should be a list"],
    ),
    "bad globs": (
        GOOD.replace('["pay-*"]', '["pay-[ab", "{a,b}", " x", "[!a]*", "[[]"]'),
        [
            "9: links[0].services.include[0]: 'pay-[ab' has a [ without its ]",
            "9: links[0].services.include[1]: '{a,b}' has braces",
            "9: links[0].services.include[2]: ' x' is empty or has a blank",
        ],
    ),
    "where": (
        link_with(LINK + ', where: {team: "", rack: 7}}'),
        ["6: links[0].where.rack: is a whole number; should be text", "6: links[0].where.team: '' is empty"],
    ),
    "a rename placeholder": (
        link_with(LINK + ', rename: "{service}-{name!r}-{registry:>4}"}'),
        [
            "6: links[0].rename: {service} is unknown; only {namespace}, {name}, {registry}",
            "6: links[0].rename: {name!r} is unknown",
            "6: links[0].rename: {registry:>4} is unknown",
        ],
    ),
    "a rename brace": (
        link_with(LINK + ', rename: "{name"}'),
        ["6: links[0].rename: is no template: expected '}' before end of string"],
    ),
    "a rename to nothing": (link_with(LINK + ', rename: " "}'), ["6: links[0].rename: is empty"]),
    "port": (
        link_with(LINK + ", port: 1.5}"),
        ["6: links[0].port: is a number; should be a whole number or text or empty"],
    ),
    "unhealthy": (
        link_with(LINK + ", unhealthy: remove}"),
        ["6: links[0].unhealthy: 'remove' is unknown; should be one of mark, withdraw"],
    ),
    "leased without ttl": (
        link_with(LINK + ", lifetime: leased}"),
        ["6: links[0].ttl: missing; leased entries need one"],
    ),
    "ttl without leased": (link_with(LINK + ", ttl: 2h}"), ["6: links[0].ttl: only leased entries have one"]),
    "leased upsert-only": (
        link_with(LINK.replace("sync", "upsert-only") + ", lifetime: leased, ttl: 2h}"),
        ["6: links[0].lifetime: leased would remove what upsert-only must keep"],
    ),
    "ttl of nothing": (link_with(LINK + ", lifetime: leased, ttl: 10ms}"), ["6: links[0].ttl: should be at least 1s"]),
    "guard": (
        link_with(LINK + ", guard: {service_share: 1.5, source_count: -1, last_instance: keep, windows: 1m}}"),
        [
            "6: links[0].guard.windows: unknown key; did you mean window?",
            "6: links[0].guard.service_share: should be float <= 1",
            "6: links[0].guard.last_instance: 'keep' is unknown; should be one of hold, pass",
            "6: links[0].guard.source_count: should be int >= 0",
        ],
    ),
    "hard below source": (
        link_with(LINK + ", guard: {hard_share: 0.05}}"),
        ["6: links[0].guard.hard_share: 0.05 is below source_share 0.1"],
    ),
    "hard below source for some": (
        link_with(LINK + ", guard_for: [{services: [x], source_share: 0.6}]}"),
        ["6: links[0].guard_for[0].hard_share: 0.5 is below source_share 0.6"],
    ),
    "guard_for": (
        link_with(LINK + ", guard_for: [{window: x}, 7]}"),
        [
            "6: links[0].guard_for[0].services: missing; should be a list",
            "6: links[0].guard_for[0].window: 'x' is no duration",
            "6: links[0].guard_for[1]: is a whole number; should be a mapping",
        ],
    ),
    "one name of two links": (
        link_with(LINK + ", name: n}\n- {name: n, from: b, to: a, policy: sync, services: {include: [x]}}"),
        ["7: links[1].name: 'n' is the name of links[0] too; should be unique"],
    ),
    "the default name of two links": (
        link_with(LINK + "}\n" + LINK.replace("[x]", "[y]") + "}"),
        ["7: links[1].name: 'a-to-b' is the name of links[0] too"],
    ),
    "one literal from two links": (
        link_with(LINK + "}\n" + LINK + ", name: n}"),
        ["7: links[1].services: 'a-to-b' sends the name 'x' to 'b' too"],
    ),
    "one name by renaming": (
        link_with(LINK + "}\n- {name: n, from: a, to: b, policy: sync, services: {include: [y]}, rename: x}"),
        ["7: links[1].services: 'a-to-b' sends the name 'x' to 'b' too"],
    ),
    "one glob of two links": (
        link_with(LINK.replace("[x]", "['p*']") + "}\n" + LINK.replace("[x]", "[y, 'p*']") + ", name: n}"),
        ["7: links[1].services: 'a-to-b' sends services like 'p*' to 'b' too"],
    ),
    "a literal under a glob": (
        link_with(LINK.replace("[x]", "['p*']") + "}\n" + LINK.replace("[x]", "[pay]") + ", name: n}"),
        ["7: links[1].services: 'a-to-b' sends the service 'pay' to 'b' too"],
    ),
    "links that are no list": (GOOD[: GOOD.index("links")] + "links: {}\n", ["5: links: should be a list"]),
    "an alias of itself": (
        GOOD[: GOOD.index("links")] + "links: &x\n  - *x\n",
        ["6: an alias that contains itself"],
    ),
    "an alias bomb": (
        GOOD[: GOOD.index("links")]
        + "links: []\nx:\n- &a0 [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"- &a{n + 1} [{','.join([f'*a{n}'] * 9)}]\n" for n in range(9)),
        ["12: more than 100000 values, aliases written out"],
    ),
    "a bomb of merge keys": (
        GOOD[: GOOD.index("links")]
        + "links: []\nx:\n- &a0 {a: 1, b: 2}\n"
        + "".join(f"- &a{n + 1} {{<<: [{','.join([f'*a{n}'] * 9)}]}}\n" for n in range(9)),
        ["12: more than 100000 values, aliases written out"],
    ),
    "brackets without end": (GOOD[: GOOD.index("links")] + "links: " + "[" * 50_000, ["5: nested deeper than 40"]),
    "a number that is none": (
        link_with("- {from: a, to: b, policy: sync, services: {include: [x]}, guard: {window: .inf}}"),
        ["6: links[0].guard.window: inf is no number"],
    ),
    "another number that is none": (
        link_with("- {from: a, to: b, policy: sync, services: {include: [x]}, guard: {source_share: .nan}}"),
        ["6: links[0].guard.source_share: nan is no number"],
    ),
    "a time beyond all plans": (
        link_with("- {from: a, to: b, policy: sync, services: {include: [x]}, guard: {window: 1.0e+26}}"),
        ["6: links[0].guard.window: is more than ten years"],
    ),
    "a time of many weeks": (
        link_with("- {from: a, to: b, policy: sync, services: {include: [x]}, guard: {confirm_event: 9999999w}}"),
        ["6: links[0].guard.confirm_event: is more than ten years"],
    ),
    "a count beyond all counting": (
        link_with(
            "- {from: a, to: b, policy: sync, services: {include: [x]}, guard: {source_count: 1" + "0" * 26 + "}}"
        ),
        ["6: links[0].guard.source_count: is more than 9223372036854775807"],
    ),
    **{
        f"port {port}": (
            link_with(f"- {{from: a, to: b, policy: sync, services: {{include: [x]}}, port: {port}}}"),
            [f"6: links[0].port: {port.strip(chr(39))} is no port"],
        )
        for port in ("-1", "0", "65536", "1e26", "'-1'", "'99999'", "'9010.0'")
    },
    "a port that is a number and no whole one": (
        link_with("- {from: a, to: b, policy: sync, services: {include: [x]}, port: .inf}"),
        ["6: links[0].port: inf is no number"],
    ),
    "a name with a line break": (
        link_with('- {name: "n\\n", from: a, to: b, policy: sync, services: {include: [x]}}'),
        ["6: links[0].name: has the character '\\n', which no name"],
    ),
    "a key that turns the text": (
        GOOD + '"\\u202eevil": 1\n',
        ["10: \\u202eevil: has the character '\\u202e'", "10: \\u202eevil: unknown"],
    ),
    "a missing variable": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: vault\n    user: ${NOBODY}"),
        ["6: registries.core.user: the environment has no NOBODY; set it before the start"],
    ),
    "a plain secret": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: vault\n    user: me\n    password: hunter22"),
        ["7: registries.core.password: a secret must not stand in this file; write password_file: FILE or password:"],
    ),
    "a secret in an address": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: vault\n    endpoints: ['http://me:hunter22@127.0.0.1']"),
        ["6: registries.core.endpoints[0]: a password must not stand in this file"],
    ),
    "a block within a registry": (
        GOOD.replace("core: {kind: memory}", "core:\n    kind: vault\n    wait: soon\n    tls: {cert: x}"),
        [
            "6: registries.core.wait: 'soon' is no duration",
            "7: registries.core.tls.cert: unknown key",
            "7: registries.core.tls.ca: missing; should be text",
        ],
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_fault_is_named_with_its_line_its_key_and_what_would_be_right(case: str, tmp_path: Path) -> None:
    text, expected = TABLE[case]
    found = faults(tmp_path, text)
    assert len(found) == len(expected), found
    for said, wanted in zip(sorted(found), sorted(expected), strict=True):
        assert said.startswith(f"isthmus.yaml:{wanted}")


def test_all_faults_are_said_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    bad = [text for text, _ in TABLE.values() if text.startswith("bridge: {id: b") and "\nlinks:\n" in text]
    lines = [text[text.index("links:\n") + 7 :].strip() for text in bad if "name: n" not in text]
    whole = "\n".join(line.replace("{from", f"{{name: l{index}, from") for index, line in enumerate(lines))
    expected = sum(len(wanted) for text, wanted in TABLE.values() if text in bad and "name: n" not in text)
    found = faults(tmp_path, link_with(whole).replace("id: b", "id: 7"))
    alone = [fault for fault in found if "sends the" not in fault and "too;" not in fault]
    assert len(alone) >= expected - 1
    numbers = [int(re.findall(r":(\d+):", fault)[0]) for fault in found]
    assert numbers == sorted(numbers)
    assert numbers[0] == 1
    assert numbers[-1] == 5 + whole.count("- ")


def test_a_block_that_ends_with_a_line_break_is_named_with_the_way_to_write_it(tmp_path: Path) -> None:
    block = "- from: a\n  to: b\n  policy: sync\n  rename: |\n    {name}\n  services: {include: [x]}\n"
    (fault,) = faults(tmp_path, link_with(block))
    assert fault.startswith("isthmus.yaml:9: links[0].rename: has the character '\\n'")
    assert "write |- or >-" in fault


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "isthmus.yaml").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(ConfigError, match="is larger than 8 MiB"):
        config.load(tmp_path / "isthmus.yaml", {})


def test_links_that_may_be_disjoint_are_no_fault(tmp_path: Path) -> None:
    config.load(
        write(
            tmp_path,
            link_with(
                """\
                - {name: one, from: a, to: b, policy: sync, services: {include: ["*"], exclude: ["x-*"]}}
                - {name: two, from: a, to: b, policy: sync, services: {include: ["x-*"]}}
                - {name: other, from: a, to: b, policy: sync, services: {include: ["*"]}, where: {team: pay}}
                - {name: named, from: a, to: b, policy: sync, services: {include: ["*"]}, rename: "v-{name}"}
                """
            ),
        ),
        {},
    )


def test_what_is_allowed_but_dangerous_is_a_warning_with_its_line(tmp_path: Path) -> None:
    text = GOOD.replace("127.0.0.1:9797", "0.0.0.0:9797").replace("  core:", "  spare: {kind: memory}\n  core:")
    text += "    lifetime: leased\n    ttl: 30m\n    rename: one\n"
    loaded = config.load(write(tmp_path, text), {})
    assert [warning.replace(f"{tmp_path}/", "") for warning in loaded.warnings] == [
        "isthmus.yaml:1: bridge.listen: 0.0.0.0 can be reached from outside: "
        "without bridge.token_file it answers no /metrics",
        "isthmus.yaml:4: registries.spare: no link names this registry",
        "isthmus.yaml:12: links[0].ttl: below 1h: every entry is gone when the bridge is down for so long",
        "isthmus.yaml:13: links[0].rename: has no {name}: of several services under one name, all are parked",
    ]


def test_paths_are_relative_to_the_file_and_the_environment_is_filled_in(tmp_path: Path) -> None:
    text = GOOD.replace(
        "core: {kind: memory}",
        "core: {kind: vault, user: me, password: '${P}', password_file: ./p, tls: {ca: ca.pem}, endpoints: ['${H}:1']}",
    )
    loaded = config.load(write(tmp_path, text), {"P": "hunter22", "H": "127.0.0.1"})
    assert loaded.registries["core"].options == Config(
        user="me",
        password="hunter22",
        password_file=str(tmp_path / "p"),
        tls=Tls(ca=str(tmp_path / "ca.pem")),
        endpoints=("127.0.0.1:1",),
    )


def test_a_secret_is_never_printed(tmp_path: Path) -> None:
    text = GOOD.replace("core: {kind: memory}", "core: {kind: vault, user: me, password: '${P}'}")
    loaded = config.load(write(tmp_path, text), {"P": "hunter22"})
    assert "hunter22" not in repr(loaded)
    said = faults(tmp_path, text.replace("user: me, ", ""), {"P": "hunter22"})
    assert said == ["isthmus.yaml:4: registries.core: a password (${P}) without a user; add user"]
    plain = faults(tmp_path, text.replace("${P}", "hunter22"))
    assert "hunter22" not in "".join(plain)


def test_the_hash_sees_the_content_and_neither_form_nor_secrets(tmp_path: Path) -> None:
    text = GOOD.replace("core: {kind: memory}", "core: {kind: vault, user: me, password: '${P}'}")
    one = config.load(write(tmp_path, text), {"P": "hunter22"}).hash
    assert re.fullmatch("[0-9a-f]{12}", one)
    assert config.load(write(tmp_path, "# note\n" + text), {"P": "other"}).hash == one
    reordered = text.replace("    to: core\n    policy: sync\n", "    policy: sync\n    to: core\n")
    assert config.load(write(tmp_path, reordered), {"P": "x"}).hash == one
    assert config.load(write(tmp_path, text.replace("sync", "observe")), {"P": "x"}).hash != one


def test_where_an_export_listens_is_of_its_host_and_no_part_of_the_hash(tmp_path: Path) -> None:
    def of(port: int, more: str = "") -> Configuration:
        block = f"  sd: {{kind: prometheus, listen: '127.0.0.1:{port}'{more}}}\nlinks:"
        return config.load(write(tmp_path, GOOD.replace("links:", block, 1)))

    assert of(9001).hash == of(9002).hash
    assert of(9001).keys == of(9002).keys
    assert of(9001, ", token_file: token").hash != of(9001).hash
    assert of(9001).registries != of(9002).registries, "a reload takes it over"


def test_a_file_that_cannot_be_read_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read: No such file"):
        config.load(tmp_path / "none.yaml", {})
    (tmp_path / "latin").write_bytes(b"bridge: \xff")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        config.load(tmp_path / "latin", {})


def test_merge_keys_and_aliases_are_read_as_yaml_says(tmp_path: Path) -> None:
    text = link_with(
        """\
        - &base {from: a, to: b, policy: observe, services: &all {include: ["*"]}}
        - <<: *base
          from: b
          to: a
          policy: sync
        """
    )
    first, second = config.load(write(tmp_path, text), {}).links
    assert (second.from_, second.to, second.policy) == (("b",), "a", "sync")
    assert second.services == first.services


def test_an_ephemeral_bridge_needs_no_state(tmp_path: Path) -> None:
    text = GOOD.replace("state: ./state, ", "")
    assert config.load(write(tmp_path, text), {}, ephemeral=True).bridge.state is None


@pytest.mark.parametrize(
    ("text", "expected"), [("500ms", 0.5), ("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("1.5h", 5400)]
)
def test_durations_are_read_in_the_usual_units(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-5s", "5sec", "1e3s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        seconds(text)


def test_the_schema_knows_every_key_and_the_kinds_of_registries() -> None:
    schema = json_schema.schema(["memory", "vault"])
    msgspec.json.encode(schema)
    found = json.dumps(schema)
    assert all(ref in schema["$defs"] for ref in re.findall(r'"#/\$defs/([^"]+)"', found))
    memory, vault = schema["properties"]["registries"]["additionalProperties"]["oneOf"]
    assert memory["properties"]["kind"] == {"const": "memory"}
    assert vault["properties"].keys() == {"kind", "foreign_sync", "network", *Config.__struct_fields__}
    assert vault["required"] == ["kind"]
    assert vault["additionalProperties"] is False
    assert {"from", "to", "policy", "services"} == set(schema["$defs"]["Link"]["required"])
    assert schema["$defs"]["Link"]["properties"]["from"]["type"] == ["array", "string"]
    assert schema["$defs"]["Bridge"]["properties"]["resync"]["type"] == ["number", "string"]
    assert schema["$defs"]["Guard"]["properties"]["window"]["default"] == 600.0
    assert "default" not in schema["$defs"]["GuardFor"]["properties"]["window"], "it is as in `guard`"
