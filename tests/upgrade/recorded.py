"""What the release before said and wrote; made by `tests/upgrade/record.py` in its tree."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.upgrade.protocol import FileSet

FOLDER = Path(__file__).parent / "recorded"
FORMER = "0.1.0"
"""N-1."""


@dataclass(frozen=True)
class Said:
    """One message."""

    method: str
    sender: str
    """"caller" or "called"."""
    message: str
    """Full name of its type."""
    data: bytes


@cache
def said(release: str = FORMER) -> tuple[Said, ...]:
    """One message of each shape."""
    return tuple(_read(FOLDER / release / "messages.jsonl"))


def of_type(name: str, release: str = FORMER) -> list[bytes]:
    """The recorded messages of a type."""
    found = [each.data for each in said(release) if each.message == f"tandem.v1.{name}"]
    assert found, name
    return found


@cache
def protocol(release: str = FORMER) -> FileSet:
    """The descriptors of a release."""
    return FileSet.FromString((FOLDER / release / "protocol.binpb").read_bytes())


def file(name: str, release: str = FORMER) -> Path:
    """Something that it left."""
    return FOLDER / release / name


def _read(path: Path) -> Iterator[Said]:
    for line in path.read_text().splitlines():
        each = json.loads(line)
        data = base64.b64decode(each["bytes"])
        yield Said(each["method"], each["sender"], each["message"], data)
