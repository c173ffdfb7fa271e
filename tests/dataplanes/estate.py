"""An inventory in a folder that leads to exports, and the instances of one service that really answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.kit.running import Bridge

GUARD = {"confirm_event": "1s", "confirm_absence": "1s"}
SERVICE = "pay"


class Inventory:
    """A folder of service files, as a person writes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    @property
    def block(self) -> dict[str, Any]:
        """The registry's block of the configuration."""
        return {"kind": "file", "path": str(self.folder)}

    def write(self, instances: Mapping[str, Mapping[str, Any]], port: int, **said: Any) -> None:
        """`instances`: by address, what is said of each besides; `said`: of all of them. An address is its id."""
        records = [
            {
                "id": address,
                "address": address,
                "ports": [{"number": port, "name": "web", "protocol": "http"}],
                **said,
                **own,
            }
            for address, own in instances.items()
        ]
        draft = self.folder / ".draft"
        draft.write_text(json.dumps({"instances": records}))  # YAML as well, and without references
        draft.replace(self.folder / f"{SERVICE}.yaml")


def bridge(folder: Path, inventory: Inventory, exports: Mapping[str, Mapping[str, Any]], **link: Any) -> Bridge:
    """Everything in the inventory leads to each export."""
    links = [
        {"from": "inventory", "to": name, "policy": "sync", "services": {"include": ["*"]}, "guard": GUARD, **link}
        for name in exports
    ]
    return Bridge(folder, {"inventory": inventory.block, **exports}, links)
