"""Pure. The sender's book: what was offered, what was granted, what is published.

::

    offer ──▶ OFFERED ──grant──▶ GRANTED ──ack──▶ (settled block by block) ──▶ forgotten
                 │                  │ grant again (lane rebuilt, layers damaged)
                 └──nack, cancel, deadline──▶ every open block settles with the error

A transfer is forgotten when its last block settles; late messages about it are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from kv_transfer.protocol.actions import Action, BreakLane, Send, Settle, Transmit
from kv_transfer.protocol.refusals import error_of
from tandem.core.blocks import BlockHeader
from tandem.core.errors import DeadlineExceeded, InvalidInput, LimitExceeded, TandemError
from tandem.core.transfer import Ack, BlockGrant, Cancel, Direction, Grant, Nack, Offer


@dataclass(slots=True)
class _Transfer:
    headers: tuple[BlockHeader, ...]
    deadline_s: float
    open: set[int]
    """Blocks that have not settled."""
    attempt: int = 0
    """Highest attempt granted; 0 before the first grant."""
    granted: set[int] = field(default_factory=set)
    on_lane: int | None = None
    """Lane epoch on which its last frames were queued; None before the first."""


class OutgoingBook:
    """State of every block on its way to the peer. Owned by the event loop's thread."""

    def __init__(self, direction: Direction) -> None:
        self._direction = direction
        self._transfers: dict[int, _Transfer] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._transfers)

    def offer(
        self,
        headers: Sequence[BlockHeader],
        now_s: float,
        timeout_s: float,
        request_id: int = 0,
        trace: str = "",
    ) -> tuple[int, list[Action]]:
        """Offer blocks; returns the new transfer's id. `trace` is the trace context of one of them."""
        assert headers, "an offer without blocks"
        self._last_id += 1
        transfer = _Transfer(tuple(headers), now_s + timeout_s, set(range(len(headers))))
        self._transfers[self._last_id] = transfer
        message = Offer(
            transfer_id=self._last_id,
            headers=transfer.headers,
            timeout_s=timeout_s,
            request_id=request_id,
            trace=trace,
        )
        return self._last_id, [Send(message)]

    def on_grant(self, grant: Grant, lane_epoch: int) -> list[Action]:
        """The receiver has decided; `lane_epoch` is that of our lane now.

        Raises InvalidInput when the grant is not an answer to the offer.
        """
        on_our_lane = bool(grant.blocks) and grant.lane_epoch == lane_epoch
        transfer = self._transfers.get(grant.transfer_id)
        if transfer is None:
            # It was cancelled while the grant was on its way. The receiver waits for its frames next, and
            # those of another transfer must never arrive in their place.
            reason = f"transfer {grant.transfer_id} was given up before its grant came"
            return [BreakLane(self._direction, lane_epoch, reason)] if on_our_lane else []
        self._check(grant, transfer)
        transfer.attempt = grant.attempt
        actions: list[Action] = [self._settle(grant.transfer_id, index, had=True) for index in grant.have]
        busy = "the receiver has no room for the block now"
        for index in grant.refused:
            error = LimitExceeded(busy, retry_after_s=grant.retry_after_s)
            actions.append(self._settle(grant.transfer_id, index, error=error))
        transfer.granted.update(block.index for block in grant.blocks)
        if on_our_lane:
            transfer.on_lane = lane_epoch
            actions.append(
                Transmit(
                    transfer_id=grant.transfer_id,
                    attempt=grant.attempt,
                    lane_epoch=lane_epoch,
                    frame_class=grant.frame_class,
                    blocks=grant.blocks,
                )
            )
        return actions

    def on_ack(self, ack: Ack) -> list[Action]:
        """Blocks are published at the peer."""
        transfer = self._transfers.get(ack.transfer_id)
        if transfer is None:
            return []
        if not transfer.granted.issuperset(set(ack.published) & transfer.open):
            raise InvalidInput(f"transfer {ack.transfer_id}: blocks acknowledged that were never granted")
        return [self._settle(ack.transfer_id, i) for i in ack.published if i in transfer.open]

    def on_nack(self, nack: Nack) -> list[Action]:
        """The receiver refuses the whole transfer, or gives it up."""
        return self._fail(nack.transfer_id, error_of(nack))

    def cancel(self, transfer_id: int, error: TandemError) -> list[Action]:
        """Give up on a transfer. The lane is broken if frames may be on it: nobody guesses which."""
        transfer = self._transfers.get(transfer_id)
        if transfer is None:
            return []
        actions: list[Action] = [Send(Cancel(transfer_id=transfer_id, reason=error.message))]
        if transfer.on_lane is not None and transfer.granted & transfer.open:
            reason = f"transfer {transfer_id} cancelled: {error.message}"
            actions.append(BreakLane(self._direction, transfer.on_lane, reason))
        return actions + self._fail(transfer_id, error)

    def expire(self, now_s: float) -> list[Action]:
        """Cancel what has outlived its deadline."""
        late = [key for key, transfer in self._transfers.items() if now_s >= transfer.deadline_s]
        error = DeadlineExceeded("the block was not published in time")
        return [action for key in late for action in self.cancel(key, error)]

    def close(self, error: TandemError) -> list[Action]:
        """The link is over: settle everything that is open."""
        return [action for key in list(self._transfers) for action in self._fail(key, error)]

    def _fail(self, transfer_id: int, error: TandemError) -> list[Action]:
        transfer = self._transfers.get(transfer_id)
        if transfer is None:
            return []
        return [self._settle(transfer_id, index, error=error) for index in sorted(transfer.open)]

    def _settle(
        self, transfer_id: int, index: int, *, had: bool = False, error: TandemError | None = None
    ) -> Settle:
        transfer = self._transfers[transfer_id]
        transfer.open.discard(index)
        if not transfer.open:
            del self._transfers[transfer_id]
        return Settle(transfer_id=transfer_id, index=index, had=had, error=error)

    @staticmethod
    def _check(grant: Grant, transfer: _Transfer) -> None:
        if grant.attempt <= transfer.attempt:
            raise InvalidInput(f"transfer {grant.transfer_id} is granted under attempt {grant.attempt} again")
        named = [*grant.have, *grant.refused, *(block.index for block in grant.blocks)]
        if len(set(named)) != len(named) or not set(named) <= set(range(len(transfer.headers))):
            raise InvalidInput(f"grant of transfer {grant.transfer_id} names blocks twice or never offered")
        if not transfer.open.issuperset((*grant.have, *grant.refused)):
            raise InvalidInput(f"grant of transfer {grant.transfer_id} judges a block that was settled")
        for block in grant.blocks:
            _check_layers(block, transfer.headers[block.index])


def _check_layers(block: BlockGrant, header: BlockHeader) -> None:
    layers = block.layers
    ascending = all(a < b for a, b in pairwise(layers))
    if not layers or not ascending or layers[0] < 0 or layers[-1] >= header.layout.layers:
        raise InvalidInput(f"a grant of layers {layers[:8]} of a block with {header.layout.layers} layers")
