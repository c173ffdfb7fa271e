"""`python -m tests.kit.hasty`: the command line, with other adapters for three kinds."""

from __future__ import annotations

from bridge.cli.main import main
from bridge.config.kinds import KINDS

if __name__ == "__main__":
    KINDS |= {kind: f"tests.kit.hasty.{kind}" for kind in ("etcd", "eureka", "kubernetes")}
    main(prog_name="isthmus")
