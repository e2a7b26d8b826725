"""Pure. How the tokens of one answer are chosen, validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tandem.core.errors import BadQuestion

MAX_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. Raises BadQuestion for values out of range."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus mass in (0, 1]."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= MAX_TEMPERATURE):
            raise BadQuestion(f"temperature is {self.temperature}; it must lie in [0, {MAX_TEMPERATURE:g}]")
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            raise BadQuestion(f"top_p is {self.top_p}; it must lie in (0, 1]")
        if not 0 <= self.seed < 1 << 64:
            raise BadQuestion(f"seed is {self.seed}; it must fit in 64 bits")
