"""Before a link first writes, what stood there is kept, once; `diff --before` compares it with what is there now."""

from __future__ import annotations

import json
import stat
from typing import Any

from tests.commands.conftest import Pair
from tests.kit.waiting import until

LINK = "inventory-to-cluster"


def native(address: str, **more: Any) -> dict[str, object]:
    return {"address": address, "ports": [{"number": 80}], **more}


async def differences(pair: Pair) -> list[tuple[str, str, str]]:
    ran = await pair.bridge.isthmus("diff", "--before", LINK, "-o", "json")
    assert ran.code == 3 and f"before {LINK} first wrote to cluster" in ran.err, ran
    return sorted((row["instance"], row["difference"], row["field"]) for row in ran.json)


async def test_what_stood_before_the_first_write_of_a_link_is_kept_once(pair: Pair) -> None:
    pair.cluster.set("pay-api", n1=native("192.0.2.91", metadata={"db-password": "s3cret"}), n2=native("192.0.2.92"))
    pair.bridge.write()
    assert (await pair.bridge.isthmus("diff", "--before", LINK)).code == 2  # it has not written
    await pair.bridge.start()
    await until(pair.copied, "the first copy")
    (file,) = (pair.bridge.state / "before").iterdir()
    head, *lines = map(json.loads, file.read_text().splitlines())
    assert (head["link"], head["to"], head["complete"]) == (LINK, "cluster", True)
    assert [(one["service"], sorted(one["instances"])) for one in lines] == [("pay-api", ["n1", "n2"])]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and "s3cret" not in file.read_text()
    new = [(one, "only in cluster", "") for one in ("d1", "d2", "i1", "i2", "i3")]
    assert await differences(pair) == new
    pair.cluster.set("pay-api", n1=native("192.0.2.91", version="2"))
    changed = [("n1", "differs", "version"), ("n2", "only in what stood before", "")]
    assert await differences(pair) == sorted([*new, *changed])
    kept = file.read_bytes()
    await pair.bridge.stop()
    file.unlink()
    pair.inventory.set("pay-api", i4="192.0.2.4")
    await pair.bridge.start()
    await until(pair.copied, "a later write")
    assert list(file.parent.iterdir()) == [], "what stands now is no beginning: the link has written before"
    assert (await pair.bridge.isthmus("diff", "--before", LINK)).code == 2
    file.write_bytes(kept.replace(b'"format":1', b'"format":9'))
    newer = await pair.bridge.isthmus("diff", "--before", LINK)
    assert newer.code == 2 and "format 9" in newer.err
