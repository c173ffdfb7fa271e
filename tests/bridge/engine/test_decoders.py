"""A type that is prepared can be decoded in several threads at once; those of the program are, before there are any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from bridge.config import load as config
from bridge.config.document import Document
from bridge.engine import decoders
from bridge.engine.engine import Engine
from tests.bridge.core import Record
from tests.kit.running import ROOT

# Without `prepare` the first rounds of this end by a signal.
RACE = """
import sys, threading, types
import msgspec
from bridge.engine import decoders

sys.setswitchinterval(1e-6)
FIELDS = "".join(f"    f{n}: 'Annotated[int, msgspec.Meta(ge=0)] | None' = None\\n" for n in range(20))
SOURCE = "import msgspec\\nfrom typing import Annotated\\nclass A(msgspec.Struct):\\n" + FIELDS
SOURCE += "class B(msgspec.Struct):\\n    a: A\\n"
BODY = msgspec.json.encode({"a": {f"f{n}": n for n in range(20)}})
for number in range(60):
    made = types.ModuleType(f"m{number}")
    sys.modules[made.__name__] = made
    exec(SOURCE, made.__dict__)
    decoders.prepare()
    meet = threading.Barrier(4)

    def decode():
        meet.wait()
        msgspec.json.decode(BODY, type=made.B)

    some = [threading.Thread(target=decode) for _ in range(4)]
    for one in some:
        one.start()
    for one in some:
        one.join()
print("done")
"""


def test_a_prepared_type_is_decoded_in_several_threads_at_once() -> None:
    ran = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr


def test_what_an_engine_uses_is_prepared_before_it_runs() -> None:
    class Late(msgspec.Struct):
        """As of an adapter that was imported just now."""

    text = "bridge: {id: b1}\nregistries:\n  a: {kind: memory}\n  b: {kind: memory}\n"
    text += 'links:\n  - {from: a, to: b, policy: observe, services: {include: ["*"]}}\n'
    file = config.parse(Path("isthmus.yaml"), Document("isthmus.yaml", text), {}, ephemeral=True)
    Engine(file, events=Record(), observe=True).prepare(file)
    assert Late in decoders.prepared
