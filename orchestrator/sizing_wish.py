"""Pure. What a plan is made for, and what its numbers look like."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core.blocks import Codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to be planned."""

    streams: int
    fps: float
    height: int = 720
    width: int = 1280
    hours: float = 1.0
    """How long blocks are kept."""
    window_units: int = 0
    """0: the checkpoint's own."""
    view_tokens: int = 0
    recalled_blocks: int = -1
    pool_bytes: int = 64 << 20
    codec: Codec = Codec.RAW
    device_bytes: int = 0
    """Of each GPU; 0: services run on processors."""
    unit_ms: float = 0.0
    """Measured cost of a unit in large batches; 0: not known."""
    questions_per_minute: float = 0.0
    answer_s: float = 5.0
    """How long a question is at its reasoner."""


@dataclass(frozen=True, slots=True)
class Line:
    """One number, and how it came about."""

    key: str
    tier: str
    what: str
    value: float
    unit: str
    formula: str
