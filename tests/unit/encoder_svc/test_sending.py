"""A session's sender while its link ends, and while the reasoner makes no room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

import pytest

from encoder_svc.bookkeeping import Book, Origin
from encoder_svc.desk import Desk
from encoder_svc.links import Lease
from encoder_svc.sending import Sender
from kv_transfer.base import Outcome, SendResult
from kv_transfer.block import Block
from tandem.core.clock import ManualClock, monotonic_clock
from tandem.core.errors import LimitExceeded, TandemError, Unavailable
from tandem.core.telemetry import NO_TELEMETRY
from tests.unit.reasoner_svc.making import make_block


class Link:
    """Answers at once, as a link does that is ending."""

    def __init__(self, error: Callable[[], TandemError | None]) -> None:
        self.rounds = 0
        self._error = error

    async def send(self, blocks: Sequence[Block], timeout_s: float) -> list[SendResult]:
        self.rounds += 1
        error = self._error()
        if isinstance(error, LimitExceeded | Unavailable) or error is None:
            outcome = Outcome.PUBLISHED if error is None else Outcome.FAILED
            return [SendResult(key=block.key, outcome=outcome, error=error) for block in blocks]
        raise error


def desk() -> Desk:
    """With one block that waits to be sent."""
    book = Book("pictures", Origin(0, None, 0, None))
    made = Desk(book, ManualClock(1.0), bytes_each=10**6, items=9, frame_bytes=99, telemetry=NO_TELEMETRY)
    block = make_block(0)
    made.blocks.reserve(block.header.payload_bytes)
    made.encoded([(0, block)])
    return made


async def test_a_link_that_is_ending_comes_to_its_end_though_blocks_wait() -> None:
    errors: list[TandemError] = [Unavailable("the link is not open")]
    link = Link(lambda: errors[-1])
    sender = Sender(desk(), cast("Lease", link), monotonic_clock, timeout_s=1.0, patience_s=9.0)
    sending = asyncio.create_task(sender.run())
    # Others get their turns: the end of the link is one of them.
    async with asyncio.timeout(2.0):
        await asyncio.sleep(0.2)
    assert 1 < link.rounds < 20
    errors.append(TandemError("a fresh ticket is needed"))
    with pytest.raises(TandemError, match="a fresh ticket"):
        await asyncio.wait_for(sending, 2.0)


async def test_a_reasoner_that_makes_no_room_for_long_ends_the_stream_here() -> None:
    link = Link(lambda: LimitExceeded("no room"))
    sender = Sender(desk(), cast("Lease", link), monotonic_clock, timeout_s=1.0, patience_s=0.2)
    with pytest.raises(LimitExceeded, match="no block was published for 0 s: no room"):
        await asyncio.wait_for(sender.run(), 3.0)
