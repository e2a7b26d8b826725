"""How often answers were right while the text model trains."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from tandem.shapes.notes import ALL_KINDS


class Tally:
    """What happened since the last report."""

    def __init__(self) -> None:
        self.hits = np.zeros((len(ALL_KINDS), 2))
        self.guides: list[list[float]] = []
        self.found: list[list[float]] = []

    def count(self, kinds: Tensor, right: Tensor) -> None:
        """Tokens of answers, by kind of question."""
        self.hits[:, 0] += np.bincount(kinds.numpy(), weights=right.numpy(), minlength=len(ALL_KINDS))
        self.hits[:, 1] += np.bincount(kinds.numpy(), minlength=len(ALL_KINDS))

    def __str__(self) -> str:
        parts = [f"{k} {h / n:.3f}" for k, (h, n) in zip(ALL_KINDS, self.hits, strict=True) if n]
        means = [np.mean(values, 0).round(2) if values else [] for values in (self.guides, self.found)]
        return f"guides {means[0]} found {means[1]} | {' '.join(parts)}"
