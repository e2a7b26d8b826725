"""Shell. A session's sender: finished blocks to the reasoner, in order, until each is published."""

from __future__ import annotations

import asyncio

from encoder_svc.desk import Desk
from encoder_svc.links import Lease
from kv_transfer.base import SendResult
from kv_transfer.block import Block
from tandem.core.clock import Clock
from tandem.core.errors import DeadlineExceeded, Internal, LimitExceeded, TandemError, Unavailable

_AGAIN = (Unavailable, LimitExceeded, DeadlineExceeded)
"""Failures after which the same block is sent again: the link broke, or the reasoner has no room yet."""
_Taken = list[tuple[int, tuple[int, Block]]]
_PAUSE_S = 0.05
"""After a round in which nothing was published."""
_SEND_BLOCKS = 32
"""Most blocks in one round; what is encoded meanwhile goes with the next."""


class Sender:
    """Sends what the desk's outbox holds.

    Args:
        timeout_s: longest round.
        patience_s: longest time without a single published block while some wait.
    """

    def __init__(
        self, desk: Desk, lease: Lease, clock: Clock, *, timeout_s: float, patience_s: float
    ) -> None:
        self._desk = desk
        self._lease = lease
        self._clock = clock
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    async def run(self) -> None:
        """Until cancelled. Raises the TandemError that makes the stream end here.

        Unavailable: the link is gone and needs a fresh ticket. DataLost: the reasoner restarted. WrongState,
        NotFound: the stream was closed or placed anew there. LimitExceeded: the reasoner makes no room.
        """
        blocks, changes = self._desk.blocks, self._desk.changes
        since_s = self._clock()
        while True:
            if not blocks.has_waiting:
                await changes.wait_for(lambda: blocks.has_waiting)
                since_s = self._clock()
            taken = blocks.take(_SEND_BLOCKS)
            results = await self._lease.send([block for _, (_, block) in taken], self._timeout_s)
            failed = self._book(taken, results)
            if len(failed) < len(taken):
                since_s = self._clock()
                continue
            if self._clock() - since_s > self._patience_s:
                waited = f"no block was published for {self._patience_s:.0f} s"
                raise LimitExceeded(f"{waited}: {failed[0]}", retry_after_s=1.0)
            # A link that is ending refuses at once: without a pause it would never come to its end.
            await asyncio.sleep(_PAUSE_S)

    def _book(self, taken: _Taken, results: list[SendResult]) -> list[TandemError]:
        failed: list[TandemError] = []
        for (number, (serial, _)), result in zip(taken, results, strict=True):
            if result.ok:
                self._desk.published(number, serial)
                continue
            error = result.error or Internal(f"block {number} failed without a reason")
            if not isinstance(error, _AGAIN):
                raise error
            self._desk.blocks.give_back(number)
            failed.append(error)
        return failed
