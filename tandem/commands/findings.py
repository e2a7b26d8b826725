"""Pure: what the doctor finds, one line each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """How a check went."""

    OK = "ok"
    NOTE = "note"
    """Nothing wrong, worth knowing."""
    BAD = "BAD"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    mark: Mark
    what: str
    remedy: str = ""
    """What to do, where something is to be done."""
