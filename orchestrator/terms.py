"""Pure. The terms on which a stream was let in."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TENANT = "default"
"""Whose a stream is whose client does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What was decided when a stream was opened."""

    tenant: str = DEFAULT_TENANT
    weight: float = 1.0
    """The tenant's share of what is scarce, against another's."""
    start_fps: float = 0.0
    """Frames per second to begin with; 0: what was asked for."""
    encoder: str = ""
    """Where it has its room until it is placed; empty: not decided."""
    reasoner: str = ""
    reason: str = ""
    """Why it was let in, and at this rate."""
