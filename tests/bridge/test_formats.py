"""What a newer isthmus keeps is refused everywhere by one sentence, which names the program to run."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from bridge.adapter import Note
from bridge.destination import joint, note
from bridge.errors import ConfigError
from bridge.migration import intent

READERS = {"export": joint.decode, "lock": note.decode, "migrations": intent.decode}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
@pytest.mark.parametrize(
    ("version", "program"), [("9.1.0", "run isthmus 9.1.0, which wrote it"), ("", "run the newer isthmus")]
)
def test_a_note_of_a_newer_format_names_the_program_to_run(
    read: Callable[[Note], object], version: str, program: str
) -> None:
    said = f'{{"format": 99, "version": "{version}", "anything": []}}'
    with pytest.raises(ConfigError, match=r"has format 99, and this isthmus knows none above \d") as refused:
        read(Note(said.encode(), None))
    assert program in str(refused.value)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_what_is_no_note_is_no_newer_one(read: Callable[[Note], object]) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(Note(b"[]", None))
