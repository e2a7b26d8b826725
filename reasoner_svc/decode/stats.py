"""Pure. What the engine holds, counted."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reasoner_svc.decode.held import HeldQuestion
    from reasoner_svc.store.tiers.pool import LayerPool
    from reasoner_svc.view.run import StreamRun


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What the engine holds; questions, leases and tails are 0 when nothing is asked."""

    runs: int = 0
    run_bytes: int = 0
    questions: int = 0
    leases: int = 0
    tail_bytes: int = 0
    index_bytes: int = 0
    """Of all blocks of all streams, in RAM."""
    pool_bytes: int = 0
    """Of the device pool; constant."""
    watchers: int = 0


def take_stats(
    runs: Collection[StreamRun],
    questions: Collection[HeldQuestion],
    pool: LayerPool | None,
    watchers: int = 0,
) -> EngineStats:
    """Count."""
    return EngineStats(
        runs=len(runs),
        run_bytes=sum(run.nbytes for run in runs),
        questions=len(questions),
        leases=sum(run.leases for run in runs),
        tail_bytes=sum(question.tail_bytes for question in questions),
        index_bytes=sum(run.index_bytes for run in runs),
        pool_bytes=pool.nbytes if pool else 0,
        watchers=watchers,
    )
