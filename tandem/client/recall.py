"""Pure: what of older video came back into an answer's view."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.timeline import TimeRange


@dataclass(frozen=True, slots=True, kw_only=True)
class RecalledBlock:
    """One older block that came back into view."""

    time: TimeRange
    score: float
    """Its best over the layers that chose it; comparable within one answer."""
    layers: int
    """In how many layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """What of older video came back into an answer's view, and at what cost."""

    strategy: str = ""
    """What chose the blocks; empty: nothing older was looked for."""
    blocks: tuple[RecalledBlock, ...] = ()
    """In order of time."""
    skipped: int = 0
    """Blocks, counted once per layer, left out because `Retrieval.load_budget_s` was over."""
    lost: int = 0
    """Blocks, counted once per layer, that were chosen and could not be read."""
    disk_bytes: int = 0
    """Read from disk."""
    loaded_bytes: int = 0
    """Copied into view."""
