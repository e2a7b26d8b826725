"""Pure. What every stream of an orchestrator gets."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.backlog import Bounds
from orchestrator.limits import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The same for all of them."""

    limits: Limits
    bounds: Bounds
