"""LazyEviction as its authors wrote it: attention of every step, one token and head at a time. Slow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass
class LiteralLazy:
    """One key/value head of one layer; tokens are named by the step that brought them, from 1 on."""

    capacity: int
    window: int
    threshold: float
    held: list[int] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)
    period: dict[int, int] = field(default_factory=dict)

    def step(self, step: int, probabilities: dict[int, float]) -> None:
        """A token came; `probabilities` are those of all that is held, the largest of the query heads."""
        self.held.append(step)
        self.last[step], self.period[step] = step - 1, 0
        assert set(probabilities) == set(self.held)
        for token, probability in probabilities.items():
            if probability >= self.threshold:
                self.period[token] = max(self.period[token], step - self.last[token])
                self.last[token] = step
        if len(self.held) <= self.capacity or step % self.window:
            return
        older, newest = self.held[: -self.window], self.held[-self.window :]
        older.sort(key=lambda token: (-self.importance(token, step), -token))
        self.held = sorted(older[: self.capacity - self.window]) + newest

    def importance(self, token: int, step: int) -> float:
        period = self.period[token]
        away = 1 + (step - self.last[token]) / (period + 1e-5)
        recent = 2 / (1 + math.exp(away)) if away < 700 else 0.0
        return recent + (2 / (1 + math.exp(period - 1)) if period else 0.0)
