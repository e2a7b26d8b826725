"""Shell. What a reasoner still holds of a stream that is taken up here: the blocks of its window."""

from __future__ import annotations

import logging

from encoder_svc.links import Lease
from encoder_svc.resume import GeometryRun
from encoder_svc.window import Kept
from kv_transfer.block import Block
from tandem.core.errors import DataLost
from tandem.core.ids import StreamId

log = logging.getLogger(__name__)


async def fetch_kept(
    lease: Lease,
    stream: StreamId,
    next_block_number: int,
    window_units: int,
    runs: tuple[GeometryRun, ...],
    timeout_s: float,
) -> Kept:
    """The sink and the last `window_units` blocks before `next_block_number`.

    What the reasoner had to remove is left out, oldest first: the stream goes on with a shorter window, and a
    lost sink is computed anew. Raises NotFound when the reasoner does not know the stream.
    """
    recent = list(range(max(1, next_block_number - window_units), next_block_number))
    sink: Block | None = None
    blocks: list[Block] = []
    try:
        sink, *blocks = await lease.fetch(stream, [0, *recent], timeout_s)
    except DataLost as error:
        log.warning("stream %s: its window is not whole any more: %s", stream, error)
        sink = await _fetch_sink(lease, stream, timeout_s)
        blocks = await _fetch_newest(lease, stream, recent, timeout_s)
    return Kept(sink, tuple(blocks), next_block_number, runs)


async def _fetch_sink(lease: Lease, stream: StreamId, timeout_s: float) -> Block | None:
    try:
        return (await lease.fetch(stream, [0], timeout_s))[0]
    except DataLost:
        return None


async def _fetch_newest(lease: Lease, stream: StreamId, numbers: list[int], timeout_s: float) -> list[Block]:
    while numbers:
        try:
            return await lease.fetch(stream, numbers, timeout_s)
        except DataLost:
            numbers = numbers[len(numbers) // 2 + 1 :]
    return []
