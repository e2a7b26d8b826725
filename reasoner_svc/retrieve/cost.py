"""Pure. What of a selection to load from disk and what to skip, within the time a question has left.

The reasoner cannot encode a frame again: it has no vision tower and no pictures (the orchestrator keeps a
minute of them, for recovery). So the choice that remains is to load or to skip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SMOOTHING = 0.2
"""Weight of the newest measurement."""
FIRST_READ_S = 1e-4
FIRST_BYTES_PER_S = 1e9
"""What a solid-state disk does, until something was measured."""


@dataclass(slots=True)
class DiskRate:
    """How fast the disk answered lately: an exponential moving average of whole layer loads."""

    seconds_per_byte: float = 1.0 / FIRST_BYTES_PER_S
    seconds_per_read: float = FIRST_READ_S

    def expect(self, blocks: int, size_bytes: int) -> float:
        """Seconds that reading so many blocks of together `size_bytes` will take."""
        return blocks * self.seconds_per_read + size_bytes * self.seconds_per_byte

    def note(self, blocks: int, size_bytes: int, seconds: float) -> None:
        """A load took so long: both parts are scaled by how far the estimate was off."""
        expected = self.expect(blocks, size_bytes)
        if expected > 0 and seconds > 0:
            factor = 1 + SMOOTHING * (seconds / expected - 1)
            self.seconds_per_byte *= factor
            self.seconds_per_read *= factor


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """How many of the missing blocks to read, best score first."""

    load: int
    skipped: int
    reason: str


def plan_load(missing: int, block_bytes: int, rate: DiskRate, left_s: float) -> LoadPlan:
    """Read as many of `missing` blocks, of `block_bytes` of one layer each, as fit into `left_s`."""
    if missing == 0:
        return LoadPlan(0, 0, "all in memory")
    each_s = rate.expect(1, block_bytes)
    if left_s == math.inf or each_s <= 0:
        return LoadPlan(missing, 0, "no time limit")
    fitting = max(0, min(missing, int(left_s / each_s)))
    if fitting == missing:
        return LoadPlan(missing, 0, f"{missing} blocks in about {1000 * missing * each_s:.1f} ms")
    return LoadPlan(
        fitting,
        missing - fitting,
        f"{1000 * left_s:.1f} ms left, {1000 * each_s:.2f} ms a block: {missing - fitting} skipped",
    )
