"""The page on layouts, made from the table that `check` uses: `python -m tests.mappings.document` writes it."""

from __future__ import annotations

from pathlib import Path

from mappings import pairs

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"
HEAD = """\
# Layouts, and what is lost between them

A layout is how one family of clients writes its registrations. `isthmus check` says the same of your links.
`file`, `memory` and `kafka` hold the whole model. A link from a layout to itself loses nothing.

What a record says and no layout could carry on (a weight that is no number, a user's name in a URL), and metadata that
`bridge.secrets` leaves out, is counted by `check` for each link. A copy without something that its readers act on is
parked. `metadata: drop` on a link leaves all other metadata out.

**Curator.** A reader takes payloads of its own class only, and fails its whole query over any other; records without a
payload are read by all. So metadata from other layouts is written

* as `payload:` on the registry says: `none`, `map` (a Java map), or the name of a class with such properties;
* else as the other records of that service have it: as a map, or as their class with the keys that hold texts in them;
* else not at all.

What Curator wrote keeps the payload that it has. A record whose class others' readers would fail over is parked.

**Dubbo 2.** A URL is read as Dubbo 2.7.23 and 3.3.6 read it. Its token goes along to Dubbo 2, for its provider refuses
calls without it, and to no other place, disk or output. Two providers on one address and port are two where their
protocol or version differs. Metadata with `&` or `;` in it is refused: Dubbo splits a URL there, and escapes neither.

**Eureka.** A service is a VIP address, without any an application in lower case; of several each. UP is HEALTHY,
OUT_OF_SERVICE is DRAINING, and what Eureka's clients do not call besides is UNHEALTHY. Weight, version and locality are
the metadata `weight`, `version`, `region`, `zone` and `sub-zone`; the mark is the metadata `isthmus-mark`. A copy is
registered in the application of its name in capitals, with an id that ends with its service (`i1:pay`; ids as Spring
makes them are kept), for Eureka keeps overrides by the id alone, and without slashes, which it could not remove. A
copy has `MyOwn` for a data center and never an override. What would break the XML of its application is parked.

**Disabled instances** (Curator's `enabled: false`, Dubbo's `enabled=false` and `disabled=true`) are copied as disabled
to their own layout and to layouts with health, and withdrawn elsewhere.

**Two layouts under one name in one place.** Readers of gRPC, Kitex, go-zero and kratos take what is below a service's
key whatever it is, and go-zero dials JSON. A copy whose readers, or whose neighbour's, would be broken is parked,
whoever wrote the neighbour; a link between two such registries in one place of one store is a fault of the file. Give
each layout a `prefix` (etcd) or `root` (ZooKeeper) of its own.

**Consul.** A native's id is `DATACENTER/NODE/ID`, which gRPC, kratos, Curator and Spring, whose keys end with the id,
get as `DATACENTER.NODE.ID` and eight digits of its hash, as any id with a slash. A native's region is the datacenter
unless its record says another. Checks are taken together as Consul does: maintenance is DRAINING, critical UNHEALTHY,
warning DEGRADED. Ports are those of Consul 1.22, else the URLs of go-kratos, else `Port` and what metadata says under
`port-NAME`. Sidecars, gateways, peered services and Consul itself are left out. A copy is on a node of the bridge's
(`isthmus-BRIDGE-00`, about a hundred on each) with a check that says how the instance is; what has no field is in its
metadata under `isthmus-more`, the mark under `isthmus-mark`. Spring Cloud Consul calls critical instances, too, so
links to Consul withdraw what is not healthy unless they say `unhealthy: mark`.

"""


def page() -> str:
    """The whole page."""
    lines = [HEAD + "| from | to | verdict | what is lost, or why it is refused |\n|---|---|---|---|"]
    names = [*pairs.LAYOUTS, *pairs.REGISTRIES, "file"]
    for source in names:
        for target in names:
            if source == target:
                continue
            pair = pairs.pair(source, target)
            lines.append(f"| {source} | {target} | {pair.verdict} | {', '.join(pair.lost) or pair.why} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
