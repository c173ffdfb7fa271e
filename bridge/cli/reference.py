"""Writes the reference pages of docs/ from the types, the commands and the constants: `make docs`."""

from __future__ import annotations

import enum
import inspect
import json
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from bridge.admin.access import NEEDS
from bridge.cli.bounds import BOUNDS
from bridge.cli.main import MODULES, main
from bridge.config import schema
from bridge.config.kinds import KINDS, adapter
from bridge.link import Guard
from bridge.migration.block import End, Migration, Window
from bridge.migration.gates import Gates, Prometheus, Query
from bridge.override import Override
from bridge.report.contract import contract
from bridge.sources.networks import DEFAULT
from bridge.units import SIZE, TIME

NOTE = "<!-- Written by `make docs` from the code; a test holds it equal. -->\n\n"

# What each key means, by type and key; a key without a meaning stops `make docs`.
MEANINGS = {
    "Bridge": {
        "id": "The bridge's name: the owner of every entry that it writes. Do not change it while it owns any.",
        "state": "The state folder: last known good, journal, decisions, admin socket. Needed by `run`. Per host.",
        "listen": "ADDRESS:PORT of `/healthz`, `/readyz`, `/metrics`, and `/seed` with the token. Per host.",
        "token_file": "Who asks for `/metrics` must show this file's text as a bearer token; needed beyond loopback.",
        "resync": "So often a destination is read anew as a whole, to find what was changed behind the bridge.",
        "additions": "What a changed file adds to a name that others serve waits for `approve` (`hold`), or flows.",
        "seat": "The registry in whose store the bridge keeps locks and notes of destinations that have none.",
        "group": "The name of the group of daemons that share the writing of what is written from a stream.",
        "secrets": "Metadata with such keys is never copied, logged or shown: globs.",
        "access": "Who may ask the daemon beside root and its own user, who may everything; below.",
        "journal": "How much of the journal stays on this host: what `log` reads and a stream is told; below.",
        "tracing": "Traces of changes for a collector of OpenTelemetry; without it none are made; below.",
    },
    "Tracing": {
        "otlp": "The collector's base URL, as `http://127.0.0.1:4318`: OTLP over HTTP, as JSON, to `/v1/traces` below.",
        "sample": "The share of changes of which a trace is made, above 0, at most 1.",
    },
    "Journal": {
        "keep": "Lines older than this go, at least a day. What has to go earlier, for want of room, is attention.",
        "room": "So much of the disk it takes, at least 128MiB. So much an outage of a stream may amount to.",
    },
    "Access": {
        "who": "`user:NAME` or `group:NAME` of this host, or their numbers.",
        "services": "The services that it is about: globs, as in `services.include`. `admin` is of everything.",
        "may": "`approve` and `freeze` have `read` in them, `admin` all three; see [rights](commands.md#rights).",
    },
    "Link": {
        "name": "Unique; shown everywhere. Default: `FROM-to-TO`.",
        "from": "The registry to read, a scope of it (`NAME/SCOPE`), or several, merged in their order.",
        "to": "The registry to write.",
        "policy": "`observe`: nothing is written, everything is shown. `upsert-only`: nothing is removed. `sync`.",
        "services": "`include` and `exclude`: globs on the name, or on `namespace:name` where the glob has a colon.",
        "where": "Only instances whose metadata has these values: equal, or globs.",
        "rename": "The name at the target: a template over `{namespace}`, `{name}` and `{registry}`.",
        "as": "The name of its picture in a stream (kind `kafka`); needed where `from` has several registries.",
        "port": "Name or number of the port, where the target holds one and instances have several.",
        "unhealthy": "`mark`: unhealthy instances are written as unhealthy, where the target has health. `withdraw`.",
        "metadata": "`keep`, or `drop`: copies have no metadata but what their readers need.",
        "addresses": "`routable`: addresses that nobody else can dial (0.0.0.0, 127.0.0.1, 169.254.x) are parked.",
        "network": "`crosses`: the ends are in two networks, and addresses of the one can be reached from the other.",
        "lifetime": "`lasting`: entries outlive the bridge. `leased`: they end `ttl` after it, where the target can.",
        "ttl": "Of leased entries.",
        "guard": "The limits of the deletion guard, below.",
        "guard_for": "Other limits for some `services`; what it does not say is as in `guard`.",
    },
    "Network": {
        "cidrs": "Addresses inside these ranges are in this network, whatever registry names them; the longest counts.",
    },
    "Override": {
        "of": "`SERVICE[@REGISTRY][/INSTANCE]`, named as at the source; without a registry, of each that has it.",
        "at": "The destination where it counts. Default: each.",
        "weight": "Relative; 1 is a convention's default. 0 counts as not serving, as DRAINING does.",
        "zone": "The zone that is written.",
        "health": "Written so where that can be shown, and withdrawn where it cannot.",
        "metadata": "Keys that are written in the place of those of the source; the others stay.",
        "including_last": "It may take the last serving instance of a service.",
        "reason": "Shown by `overrides` and `explain`.",
    },
    "Guard": {
        "window": "Losses are counted over so long; replacements in it cancel them.",
        "service_share": "A service may lose this share of what served at the start of the window.",
        "last_instance": "`hold`: the last serving instance of a service does not go without a second opinion. `pass`.",
        "source_share": "A source scope may lose this share,",
        "source_count": "or this number; beyond both, removals are held for a second opinion.",
        "hard_share": "Beyond this share of a scope,",
        "hard_count": "and this number, only an operator releases.",
        "confirm_event": "A deletion that an unbroken watch reported is asked for again after this.",
        "confirm_absence": "What a new listing lacks is asked for again after this.",
    },
    "Migration": {
        "name": "What commands call it. Each service that it moves is `NAME/SERVICE`.",
        "services": "Which services move: globs over the names at `from`. Each is a move of its own.",
        "from": "The side that they leave: items as in `from` of a link, each as text or as a block.",
        "to": "The side that they go to, likewise.",
        "at": "Where consumers look: destinations of links, registries and exports alike.",
        "attach_at": "Registries of `to` whose consumers are to call both sides meanwhile: copies of `from` stand "
        "beside the natives there from the phase `attach` on, fewer at each step, by count.",
        "elsewhere": "Destinations that get these services from `from` and are to lose them.",
        "consumers": "Who reads there: `spring`, `dubbo`, `kratos`, `envoy` ... Default: every kind that can.",
        "envoys": "Admin pages of Envoys, `http://HOST:PORT`, that count requests where no `prometheus.requests` does.",
        "steps": "Percent that `to` should have; the last one is 100.",
        "natives": "How registrations that are not ours leave: people stop their processes; or, with `steer`, in "
        "batches, by a status override (Eureka) or a rule (Dubbo in ZooKeeper): `start --yes-write-natives` allows it.",
        "at_once": "So many moves of it are under way at a time.",
        "window": "When a step may begin by itself; never bounds a way back.",
        "gates": "What each step waits for, below.",
        "on_fail": "A gate that fails rolls back, or holds.",
        "settle": "How long consumers need to follow, where they are tuned. Default: what each kind is known to need.",
        "quiet_for": "So long the old side has had no request before it retires.",
        "keep": "So long after 100 % the old side stays for a way back, and `reopen` works.",
        "wait_at_most": "A wait that is longer becomes a pause, and an alert.",
    },
    "End": {
        "item": "A registry, or a scope of it: `consul/dc1`.",
        "where": "Only instances with this metadata: a glob for each key.",
        "addresses": "Only instances with such an address: globs.",
    },
    "Window": {
        "days": "Weekdays, e.g. `mon-thu`.",
        "hours": "Hours of a day, e.g. `9-16`: from 9:00 to before 16:00.",
        "zone": "The time zone, e.g. `Europe/Berlin`.",
    },
    "Gates": {
        "parity": "A difference of the sides keeps the first step from beginning, or is said.",
        "hold_for": "At each step, at least as long as the slowest consumer needs.",
        "approve": "Steps that wait for `isthmus migrate next`.",
        "prometheus": "Who is asked, below. Without it every step waits for `isthmus migrate next`.",
    },
    "Prometheus": {
        "url": "Of its HTTP API.",
        "username": "With `password_file`: HTTP basic.",
        "password_file": "A file with the password, read anew when it changes.",
        "token_file": "A file with a bearer token, read anew when it changes.",
        "tls": "`ca`, `cert`, `key`: PEM files, read anew when they change; `server_name`.",
        "scrape": "The longest time between two scrapes of what the queries read.",
        "sides": "`from`, `to`: the texts for `{{side}}` in queries.",
        "requests": "A query for the number of requests of a side in `{{window}}`; with "
        '`instance=~"{{instances}}"` it counts those at natives that left, too: a batch is over once there is none.',
        "queries": "The gates, below.",
    },
    "Query": {
        "name": "What `next --without` and `status` call it.",
        "query": "PromQL with `{{side}}`, `{{window}}`, `{{service}}`, `{{namespace}}`; one number.",
        "fail_above": "Of `to`.",
        "fail_below": "Of `to`.",
        "worse_by": "0.5 fails where `to` is above 1.5 times `from` in the same window.",
        "min_samples": "With fewer requests in the window there is no data.",
        "interval": "Between two looks.",
        "failures": "So many failed looks in a row fail the gate.",
    },
    "file": {
        "path": "A folder of YAML files, one a service. It must exist.",
        "rescan": "So often everything is looked at again, besides being told by the kernel.",
        "check": "Instances of people's files are asked by HTTP from here: `http` (a path), `header` (it has to say "
        "the service; `''`: none), `interval`, `timeout`, `failures` in turn, `observe` (default: for the first day).",
    },
    "etcd": {
        "endpoints": "URLs, tried in turn: `http://` or `https://`.",
        "layout": "How instances are written there; see [layouts](layouts.md).",
        "prefix": "Where the entries are. Default: the layout's own. With the last slash, where keys have one.",
        "protocol": "Of ports that have no name.",
        "tls": "`ca`, `cert`, `key`: PEM files, read anew when they change; `server_name`.",
        "user": "Log in as this user.",
        "password": "Only as `${VARIABLE}` of the environment.",
        "password_file": "A file with the password, read at each log-in.",
    },
    "zookeeper": {
        "hosts": "`host:port` each; the last one with the chroot, if there is one: `zk3:2181/apps`.",
        "layout": "How instances are written there; see [layouts](layouts.md).",
        "root": "The node that holds the entries. Default: the layout's own.",
        "protocol": "Of ports that have no name.",
        "payload": "The payload's class of what is written for Curator: `none`, `map`, or a class's name.",
        "tls": "`ca`, `cert`, `key`: PEM files; `server_name`.",
        "auth": "`user`, and `password` or `password_file`: the digest scheme.",
        "admin": "The URL of each server's admin server: `migrate readers` asks them for watches and sessions.",
        "session_timeout": "After so long without the server a session has ended, and with it the writer's lock.",
    },
    "consul": {
        "address": "The URL of an agent, or of several of one datacenter, asked in turn.",
        "datacenters": "Each one a scope (`from: NAME/dc2`); asked through the agent. Others are named by `check`.",
        "write_datacenter": "The one that links write, and that has locks and notes. Default: the first one.",
        "token": "Only as `${VARIABLE}` of the environment.",
        "token_file": "A file with the token, read anew when it changes.",
        "tls": "`ca`, `cert`, `key`: PEM files, read anew when they change; `server_name`.",
        "address_tag": "The tagged address to read (`lan`, `wan`, ...), where a service or its node has one.",
        "protocol": "Of ports that say none.",
        "max_polls": "So many services are polled at a time, over all datacenters; the others are seen a little later.",
        "wait": "Seconds that a poll is held: so long a restored snapshot may go unnoticed.",
    },
    "eureka": {
        "urls": "Its peers, each with its path, `http://host:8761/eureka`: every one by itself, no load balancer.",
        "poll": "From one answer to the next question for changes.",
        "address": "Which of the two addresses of an instance is read: `ip` (`ipAddr`) or `host` (`hostName`).",
        "identity": "Its name in marks, the same for every bridge. Default: host and port of the first URL.",
        "tls": "`ca`, `cert`, `key`: PEM files, read anew when they change; `server_name`.",
        "username": "With `password` or `password_file`: HTTP basic.",
        "password": "Only as `${VARIABLE}` of the environment.",
        "password_file": "A file with the password, read anew when it changes.",
    },
    "xds": {
        "listen": "`HOST:PORT`. Beyond loopback `tls` with `client_ca` is needed.",
        "tls": "`cert`, `key`, and `client_ca`, by which clients are known: PEM files, read anew when they change.",
        "cluster": "The name of a cluster, and of what gRPC dials: a template of `{name}`, `{namespace}`, `{port}`.",
        "egress": "`HOST:PORT` at the Envoy, for applications beside it, which reach every service there by its name.",
        "health_check": "What Envoys ask each instance: `path`, `interval`, `timeout`, `names_the_service`. Sent "
        "for a service once one instance of each version has answered it here.",
        "priority": "`zone` or `region`: instances elsewhere than a client serve it where those beside it cannot.",
        "upstream_ca": "A path at the Envoy: what signs the certificates of instances whose port says TLS.",
    },
    "prometheus": {
        "listen": "`HOST:PORT` of `/targets`. Beyond loopback `token_file` is needed.",
        "token_file": "A file with the token that must be shown, read anew when it changes.",
        "cert": "With `key`: PEM files, for https.",
        "key": "See `cert`.",
    },
    "traefik": {
        "listen": "`HOST:PORT` of `/traefik`. Beyond loopback `token_file` is needed.",
        "token_file": "A file with the token that must be shown, read anew when it changes.",
        "cert": "With `key`: PEM files, for https.",
        "key": "See `cert`.",
        "service": "The name of a service: a template of `{name}`, `{namespace}`, `{port}`.",
        "rule": "The rule of a router for each service, with `{service}` in it; without it there are none.",
        "entry_points": "Those of the routers. Default: all.",
    },
    "nginx": {
        "path": "The folder that nginx includes: a file for each upstream.",
        "test": "The command that accepts the files, a list of words.",
        "reload": "The command that has nginx read them, a list of words.",
        "result": "Instead of commands: where root's path unit says what became of the files (deploy/systemd).",
        "at_most_every": "Between two reloads: each costs keep-alive clients their connections.",
        "upstream": "The name of an upstream: a template of `{name}`, `{namespace}`, `{port}`.",
    },
    "kafka": {
        "bootstrap_servers": "`HOST:PORT` of some brokers, which name the others.",
        "state_topic": "The compacted topic with the latest of every instance; created where it is missing.",
        "changes_topic": "The log of what happened; created where it is missing. Default: none is kept.",
        "changes_retention": "The log is created so that it keeps events for so long.",
        "partitions": "Of the topics, when they are created. What is there must have as many.",
        "group_protocol": "Of groups of daemons: `classic`, or `consumer` where brokers wait less than their 45 s "
        "(group.consumer.min.session.timeout.ms).",
        "security": "`protocol`, `mechanism`, `username`, `password_file` (or `password: ${VARIABLE}`), `tls`.",
    },
    "kubernetes": {
        "kubeconfig": "Whose cluster and credentials are used. Default: the service account of the bridge's own pod.",
        "context": "One of the kubeconfig's. Default: its current one.",
        "namespaces": "Only these, each a scope. Default: all, as one scope.",
        "namespace": "The one whose services have no namespace in other registries.",
        "selector": "A label selector: what it chooses is read, unless it says `isthmus.io/export: false`.",
        "address": "What stands for a Service: its pods, or an address that leads to all of them.",
        "pod_metadata": "Labels and annotations of pods are metadata, too. Needs the right to list and watch pods.",
        "create_namespaces": "A missing namespace is created. Needs the right to create namespaces.",
        "attach": "Slices are added beside those of a Service that has a selector of its own, which stays as it is; in "
        "the layout `istio` a WorkloadEntry an instance.",
        "layout": "`istio`: a ServiceEntry a host in `namespace`, for istiod; it is written and never read.",
        "host": "The host of a service in the layout `istio`: a template of `{name}`, `{namespace}`.",
        "destination_rules": "A DestinationRule stands beside each ServiceEntry: without it shares follow no weights.",
        "max_attached_share": "Of such a Service's serving endpoints: more is not added, and nothing is taken away.",
    },
}
HIDDEN_KINDS = {"memory"}  # for tests and demonstrations


def configuration() -> str:
    """docs/configuration.md."""
    text = "# Configuration reference\n\n" + NOTE
    text += (
        "One YAML file. Unknown keys, wrong types and contradictions are errors with file, line, key and what would\n"
        "be right, all at once: `isthmus check --offline`. Times are numbers of seconds or `90s`, `10m`, `2h`; sizes\n"
        "of bytes or `512MiB`, `4GiB`; shares\n"
        "are 0 to 1. `${NAME}` is taken from the environment in the blocks `bridge` and `registries`. Secrets never\n"
        "stand in the file. `isthmus schema` prints the JSON Schema for editors.\n\n"
    )
    text += _section("`bridge`", schema.Bridge, "Bridge")
    text += _section("`access`", schema.Access, "Access", level="###")
    text += _section("`tracing`", schema.Tracing, "Tracing", level="###")
    text += "## `registries`\n\nA mapping of a name to a block: `kind`, the keys of that kind, and these two:\n\n"
    text += "- `foreign_sync`: what other synchronisers wrote there is not sent (`ignore`), or is sent (`follow`).\n"
    text += f"- `network`: that of its addresses, `{DEFAULT}` where it is not said. A block has one network and one\n"
    text += "  way to take addresses: who needs two writes two blocks. [Networks](concepts.md#networks).\n\n"
    for kind in KINDS:
        if kind in MEANINGS:
            text += _section(f"`kind: {kind}`", adapter(kind).Config, kind, level="###")
        elif kind not in HIDDEN_KINDS:
            raise LookupError(f"bridge/cli/reference.py: no meanings for the kind {kind}")
    text += _section("`networks`: a mapping of a name to a block", schema.Network, "Network")
    text += _section("`links`", schema.Link, "Link")
    text += _section("`guard`", Guard, "Guard", level="###")
    text += _section("`migrations`", Migration, "Migration")
    text += _section("an item of `from` and `to`, where it is no text", End, "End", level="###")
    text += _section("`window`", Window, "Window", level="###")
    text += _section("`gates`", Gates, "Gates", level="###")
    text += _section("`gates.prometheus`", Prometheus, "Prometheus", level="###")
    text += _section("an item of `queries`", Query, "Query", level="###")
    text += _section("`overrides`: a list", Override, "Override")
    return text


def _section(title: str, kind: Any, name: str, level: str = "##") -> str:
    meanings = MEANINGS[name]
    hints = typing.get_type_hints(kind, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(kind):
        key = field.encode_name
        if key not in meanings:
            raise LookupError(f"bridge/cli/reference.py: say in MEANINGS what {name}.{key} means")
        rows.append((f"`{key}`", _type(hints[field.name]), _default(field), meanings[key]))
    table = _table(("key", "type", "default", "meaning"), rows)
    return f"{level} {title}\n\n{table}\n"


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _type(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return "time" if TIME in args else "size" if SIZE in args else _type(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(one) for one in args if one is not type(None)))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in args)
    if origin in (tuple, list):
        return "list of " + _type(args[0])
    if origin is dict:
        return "mapping"
    if isinstance(hint, type) and issubclass(hint, enum.StrEnum):
        return " or ".join(f"`{one}`" for one in hint)
    names = {str: "text", int: "number", float: "number", bool: "yes or no"}
    return names.get(hint, "block")


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT and field.default_factory is msgspec.NODEFAULT:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None or value == "" or isinstance(value, msgspec.Struct) or value in ({}, ()):
        return ""
    if isinstance(value, tuple):
        return ", ".join(f"`{one}`" for one in value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def commands() -> str:
    """docs/commands.md."""
    text = "# Commands\n\n" + NOTE
    text += (
        "1 is a failure, 2 wrong usage or configuration, 3 something to look at, 4 what `bridge.access` does not let\n"
        "its user do. `-o json` has everything, whole; tables fit 100 columns, `-o wide` has every column. The file\n"
        "is `-f FILE`, else `$ISTHMUS_FILE`, `./isthmus.yaml`, `/etc/isthmus/isthmus.yaml`.\n"
        "What the columns mean: [concepts](concepts.md#columns).\n\n"
    )
    for name in MODULES:
        context = click.Context(main, info_name="isthmus")
        made = main.get_command(context, name)
        assert made is not None
        inside = click.Context(made, parent=context, info_name=name)
        text += _command(name, made, inside)
        for verb, one in made.commands.items() if isinstance(made, click.Group) else ():
            text += _command(f"{name} {verb}", one, click.Context(one, parent=inside, info_name=verb))
    return text + _rights()


def _rights() -> str:
    """What each command needs of `bridge.access`."""
    rows = [(f"`{name}`", f"`{one.right}`" if one.right else "", one.over) for name, one in NEEDS.items()]
    return (
        "## Rights\n\nRoot and the daemon's own user may everything. What others may is in `bridge.access` of the file "
        "that runs, judged by the\nuser and the groups that the kernel names; without it they may nothing. A refusal "
        "ends with exit code 4, and is in the journal.\n\n" + _table(("command", "right", "on"), rows)
    )


def _command(name: str, made: click.Command, context: click.Context) -> str:
    exits, _, example = (made.epilog or "").partition("\n\n\b\nExample:\n  ")
    usage = " ".join(["isthmus", name, *made.collect_usage_pieces(context)])
    text = f"## `{name}`\n\n{inspect.cleandoc(made.help or '')}\n\n    {usage}\n\n"
    rows = [record for one in made.params if (record := one.get_help_record(context)) is not None]
    if rows:
        text += (
            _table(("option", ""), [(f"`{option}`", said) for option, said in rows if "--help" not in option]) + "\n"
        )
    return text + f"{exits}\n\nExample: `{example}`\n\n"


def limits() -> str:
    """docs/limits.md."""
    text = "# Limits\n\n" + NOTE + "Every bound, what shows that it is reached, and what happens beyond it.\n\n"
    rows = [
        (one.what, one.value, f"`{one.key}`" if one.key else "", f"`{one.metric}`" if one.metric else "", one.beyond)
        for one in BOUNDS
    ]
    text += _table(("what", "bound", "changed by", "metric", "beyond it"), rows)
    return text + LIMITS_BY_NATURE


LIMITS_BY_NATURE = """
By nature:

- One process; watches and writes of 100,000 instances are what it is measured for (`make bench`).
- A destination follows states, not events: intermediate values may be skipped under load.
- go-zero publishers put a deleted key back within a second; what cannot be drained there is said, not fought.
- Curator and Spring payloads, and Dubbo 3, poison each other's readers under one name, and so do the layouts of etcd in
  one place ([layouts](layouts.md)); such writes are parked.
- Isthmus is an application: give it an environment of its own (its import names are `bridge`, `adapters`, `mappings`).
"""


def events() -> str:
    """`isthmus schema --events`."""
    return json.dumps(contract(adapter("kafka").EVENTS), indent=2)


PAGES = {"configuration.md": configuration, "commands.md": commands, "limits.md": limits, "events.json": events}


def page(name: str) -> str:
    """The text of a generated page; raises LookupError where a key has no meaning yet."""
    return PAGES[name]().rstrip("\n") + "\n"


def outdated(folder: Path) -> list[str]:
    """The generated pages that do not say what the code says."""
    return [name for name in PAGES if (folder / name).read_text() != page(name)]


if __name__ == "__main__":
    folder = Path(sys.argv[-1])
    if "--check" in sys.argv:
        if old := outdated(folder):
            sys.exit(f"{', '.join(old)} in {folder}: not what the code says; run `make docs`")
    else:
        for name in PAGES:
            (folder / name).write_text(page(name))
