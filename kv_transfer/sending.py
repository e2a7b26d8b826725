"""Shell. A `Link.send`: blocks in offers, offers again while the receiver is busy, one result a block."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence

from kv_transfer.base import LinkConfig, Outcome, SendResult
from kv_transfer.block import Block
from kv_transfer.protocol.actions import Settle
from tandem.core.clock import Clock
from tandem.core.errors import DeadlineExceeded, LimitExceeded, TandemError, Unavailable

OfferBlocks = Callable[[Sequence[Block], float], Awaitable[list[Settle]]]
"""Offers blocks together with seconds of patience; how each settled."""
_FIRST_RETRY_S = 0.05
_MAX_RETRY_S = 2.0


async def send_blocks(
    blocks: Sequence[Block], timeout_s: float, *, offer: OfferBlocks, config: LinkConfig, clock: Clock
) -> list[SendResult]:
    """Send blocks; results in the order of the blocks."""
    deadline_s = clock() + timeout_s
    batches = list(split_blocks(blocks, config.offer_bytes, config.offer_blocks))
    courier = _Courier(offer, deadline_s, clock)
    if len(batches) == 1:
        return await courier.deliver(batches[0])
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(courier.deliver(batch)) for batch in batches]
    return [result for task in tasks for result in task.result()]


def split_blocks(blocks: Sequence[Block], max_bytes: int, max_blocks: int) -> Iterator[list[Block]]:
    """Runs of blocks of at most `max_blocks` and, unless one alone is larger, `max_bytes` together."""
    batch: list[Block] = []
    batch_bytes = 0
    for block in blocks:
        size_bytes = block.header.payload_bytes
        if batch and (batch_bytes + size_bytes > max_bytes or len(batch) == max_blocks):
            yield batch
            batch, batch_bytes = [], 0
        batch.append(block)
        batch_bytes += size_bytes
    if batch:
        yield batch


class _Courier:
    """Offers blocks until each is published, refused for good, or out of time."""

    def __init__(self, offer: OfferBlocks, deadline_s: float, clock: Clock) -> None:
        self._offer = offer
        self._deadline_s = deadline_s
        self._clock = clock

    async def deliver(self, blocks: Sequence[Block]) -> list[SendResult]:
        results: dict[int, SendResult] = {}
        open_indices = list(range(len(blocks)))
        backoff_s = _FIRST_RETRY_S
        while open_indices:
            left_s = self._deadline_s - self._clock()
            if left_s <= 0:
                late = DeadlineExceeded("no time is left to send the block")
                results.update((i, _failed(blocks[i], late)) for i in open_indices if i not in results)
                break
            settled = await self._offer([blocks[i] for i in open_indices], left_s)
            outcomes = dict(zip(open_indices, settled, strict=True))
            results.update((i, _result(blocks[i], settle)) for i, settle in outcomes.items())
            refused = [i for i in open_indices if _is_refusal(outcomes[i].error)]
            if len(refused) > 1 and len(refused) == len(open_indices):
                # One bad block condemns its whole offer: offer each alone to find out which.
                for i in refused:
                    (results[i],) = await self.deliver([blocks[i]])
            open_indices = [i for i in open_indices if isinstance(outcomes[i].error, LimitExceeded)]
            if open_indices:
                hints = [results[i].error for i in open_indices]
                wait_s = max([backoff_s, *(hint.retry_after_s or 0.0 for hint in hints if hint is not None)])
                wait_s *= random.uniform(1.0, 1.25)  # noqa: S311 - spreads retries, guards nothing
                if self._clock() + wait_s >= self._deadline_s:
                    break
                await asyncio.sleep(wait_s)
                backoff_s = min(2 * backoff_s, _MAX_RETRY_S)
        return [results[index] for index in range(len(blocks))]


def _result(block: Block, settle: Settle) -> SendResult:
    if settle.error is not None:
        return _failed(block, settle.error)
    return SendResult(key=block.key, outcome=Outcome.HAVE if settle.had else Outcome.PUBLISHED)


def _failed(block: Block, error: TandemError) -> SendResult:
    return SendResult(key=block.key, outcome=Outcome.FAILED, error=error)


def _is_refusal(error: TandemError | None) -> bool:
    """True for an error that names the block, not the moment."""
    return error is not None and not isinstance(error, LimitExceeded | DeadlineExceeded | Unavailable)
