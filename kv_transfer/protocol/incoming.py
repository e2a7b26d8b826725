"""Pure. The receiver's book: offers that wait for credit, blocks being received, layers still missing.

::

    offer ──▶ WAITING ──credit, lane up──▶ admitted: HAVE │ busy │ reserved ──▶ RECEIVING
    RECEIVING ──all layers of a block match──▶ publish, ack
              ──lane down──▶ keeps its verified layers, granted again on the next lane
              ──damaged layers──▶ granted again once, then refused as corrupt
              ──cancel, deadline──▶ buffers are released once nothing can write to them

Credit is counted in payload bytes granted and not yet published. The oldest offer goes first, so nothing
starves, and an offer larger than the whole credit is granted when it is alone, so nothing deadlocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kv_transfer.protocol.actions import Action, BreakLane, Expect, Publish, Release, Send
from kv_transfer.protocol.frames import choose_class
from kv_transfer.protocol.limits import check_offered
from kv_transfer.protocol.refusals import nack_of
from tandem.core.blocks import BlockHeader
from tandem.core.errors import DataLost, DeadlineExceeded, InvalidInput, LimitExceeded, TandemError
from tandem.core.transfer import Ack, BlockGrant, Direction, FrameClass, Grant, Offer

MAX_CORRUPT_ATTEMPTS = 2
"""Damaged layers are asked for once more; twice damaged means memory or a peer that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Have:
    """The block is published here already."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """A buffer is set aside for the block."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The block is not taken: LimitExceeded means not now, anything else never."""

    error: TandemError


Admission = Have | Reserved | Refused
Admit = Callable[[Offer, int], Admission]
"""Judges block `index` of an offer; reserves its buffer when it says so."""


@dataclass(slots=True)
class _Transfer:
    offer: Offer
    deadline_s: float
    missing: dict[int, set[int]] = field(default_factory=dict)
    """Reserved blocks that are not published: their layers still to come."""
    attempt: int = 0
    on_lane: int | None = None
    """Lane epoch on which an attempt may be writing to the buffers now."""
    corrupt_attempts: int = 0
    damaged: bool = False
    cancelled: bool = False

    def open_bytes(self) -> int:
        return sum(self.offer.headers[index].payload_bytes for index in self.missing)


class IncomingBook:
    """State of every block on its way here. Owned by the event loop's thread."""

    def __init__(
        self,
        direction: Direction,
        admit: Admit,
        *,
        credit_bytes: int,
        max_pending: int,
    ) -> None:
        self._direction = direction
        self._admit = admit
        self._credit_bytes = credit_bytes
        self._max_pending = max_pending
        self._largest_class = FrameClass.M
        self._waiting: deque[_Transfer] = deque()
        self._active: dict[int, _Transfer] = {}
        self._last_id = 0
        self._lane_epoch: int | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._active)

    @property
    def open_bytes(self) -> int:
        """Payload bytes granted and not yet published or given up."""
        return sum(transfer.open_bytes() for transfer in self._active.values())

    def headers(self, transfer_id: int) -> tuple[BlockHeader, ...]:
        """Headers of an active transfer."""
        return self._active[transfer_id].offer.headers

    def on_offer(self, offer: Offer, now_s: float) -> list[Action]:
        """The peer has blocks. Ids that do not rise are refused (used before), and impossible headers."""
        if offer.transfer_id <= self._last_id:
            return [Send(nack_of(InvalidInput("an offer with an old id"), offer.transfer_id))]
        self._last_id = offer.transfer_id
        try:
            check_offered(offer.headers, offer.timeout_s)
        except InvalidInput as error:
            return [Send(nack_of(error, offer.transfer_id))]
        if len(self._waiting) >= self._max_pending:
            busy = LimitExceeded(f"{self._max_pending} offers are waiting", retry_after_s=0.1)
            return [Send(nack_of(busy, offer.transfer_id))]
        self._waiting.append(_Transfer(offer, now_s + offer.timeout_s))
        return self.pump()

    def pump(self) -> list[Action]:
        """Grant waiting offers, oldest first, while credit lasts and the lane is up."""
        actions: list[Action] = []
        while self._waiting and self._lane_epoch is not None:
            transfer = self._waiting[0]
            wanted = sum(header.payload_bytes for header in transfer.offer.headers)
            if self.open_bytes and self.open_bytes + wanted > self._credit_bytes:
                break
            self._waiting.popleft()
            actions += self._grant_first(transfer)
        return actions

    def on_lane_up(self, lane_epoch: int, largest_class: FrameClass) -> list[Action]:
        """The receiving lane works: grant again what was cut off, then what waits."""
        self._lane_epoch = lane_epoch
        self._largest_class = largest_class
        again = [t for t in self._active.values() if t.missing and t.on_lane is None]
        return [action for t in again for action in self._grant(t)] + self.pump()

    def on_lane_down(self, lane_epoch: int) -> list[Action]:
        """The lane is closed at our end and its thread has let go of every buffer."""
        if self._lane_epoch == lane_epoch:
            self._lane_epoch = None
        actions: list[Action] = []
        for transfer in list(self._active.values()):
            if transfer.on_lane == lane_epoch:
                transfer.on_lane = None
                if transfer.cancelled or not transfer.missing:
                    actions += self._drop(transfer)
        return actions

    def on_layers(
        self, transfer_id: int, attempt: int, landed: Sequence[tuple[int, int, bool]]
    ) -> list[Action]:
        """Layers have landed: (block index, layer, whether its checksum matched)."""
        transfer = self._active.get(transfer_id)
        if transfer is None or transfer.attempt != attempt or transfer.cancelled:
            return []
        complete: list[int] = []
        for index, layer, matched in landed:
            missing = transfer.missing.get(index)
            if missing is None:
                continue
            if not matched:
                transfer.damaged = True
                continue
            missing.discard(layer)
            if not missing:
                complete.append(index)
                del transfer.missing[index]
        return [Publish(transfer_id=transfer_id, indices=tuple(complete))] if complete else []

    def on_published(self, transfer_id: int, indices: Sequence[int]) -> list[Action]:
        """The blocks are visible here."""
        return [Send(Ack(transfer_id=transfer_id, published=tuple(indices)))] if indices else []

    def on_attempt_done(self, transfer_id: int, attempt: int) -> list[Action]:
        """Every frame of the attempt has come; the lane's thread is done with its buffers."""
        transfer = self._active.get(transfer_id)
        if transfer is None or transfer.attempt != attempt:
            return []
        transfer.on_lane = None
        if transfer.cancelled or not transfer.missing:
            return self._drop(transfer) + self.pump()
        assert transfer.damaged, f"transfer {transfer_id} ended with layers missing and none damaged"
        transfer.damaged = False
        transfer.corrupt_attempts += 1
        if transfer.corrupt_attempts < MAX_CORRUPT_ATTEMPTS:
            return self._grant(transfer) if self._lane_epoch is not None else []
        error = DataLost("the block's bytes did not match its checksums, twice")
        return [Send(nack_of(error, transfer_id)), *self._drop(transfer), *self.pump()]

    def on_cancel(self, transfer_id: int, reason: str) -> list[Action]:
        """The sender gives up."""
        self._waiting = deque(t for t in self._waiting if t.offer.transfer_id != transfer_id)
        transfer = self._active.get(transfer_id)
        return [] if transfer is None else self._abandon(transfer, reason) + self.pump()

    def expire(self, now_s: float) -> list[Action]:
        """Give up on what has outlived the sender's patience."""
        actions: list[Action] = []
        late = [t for t in (*self._waiting, *self._active.values()) if now_s >= t.deadline_s]
        for transfer in late:
            if transfer.cancelled:
                continue
            transfer_id = transfer.offer.transfer_id
            error = DeadlineExceeded("the transfer's time ran out at the receiver")
            actions += [Send(nack_of(error, transfer_id)), *self.on_cancel(transfer_id, error.message)]
        return actions

    def on_publish_failed(self, transfer_id: int, error: TandemError) -> list[Action]:
        """A verified block could not be published here: the transfer cannot be completed."""
        transfer = self._active.get(transfer_id)
        if transfer is None:
            return []
        return [Send(nack_of(error, transfer_id)), *self._abandon(transfer, error.message)]

    def close(self) -> list[Action]:
        """The link is over and its lanes are closed: give every buffer back."""
        self._waiting.clear()
        self._lane_epoch = None
        return [action for transfer in list(self._active.values()) for action in self._drop(transfer)]

    def _grant_first(self, transfer: _Transfer) -> list[Action]:
        offer = transfer.offer
        have: list[int] = []
        busy: list[int] = []
        retry_after_s: float | None = None
        for index, header in enumerate(offer.headers):
            verdict = self._admit(offer, index)
            if isinstance(verdict, Reserved):
                transfer.missing[index] = set(range(header.layout.layers))
            elif isinstance(verdict, Have):
                have.append(index)
            elif isinstance(verdict.error, LimitExceeded):
                busy.append(index)
                retry_after_s = max(retry_after_s or 0.0, verdict.error.retry_after_s or 0.05)
            else:
                self._active[offer.transfer_id] = transfer
                return [Send(nack_of(verdict.error, offer.transfer_id)), *self._drop(transfer)]
        if transfer.missing:
            self._active[offer.transfer_id] = transfer
        return self._grant(transfer, tuple(have), tuple(busy), retry_after_s)

    def _grant(
        self,
        transfer: _Transfer,
        have: tuple[int, ...] = (),
        refused: tuple[int, ...] = (),
        retry_after_s: float | None = None,
    ) -> list[Action]:
        assert self._lane_epoch is not None, "a grant without a lane"
        transfer.attempt += 1
        offer, lane_epoch = transfer.offer, self._lane_epoch
        blocks = tuple(BlockGrant(index=i, layers=tuple(sorted(m))) for i, m in transfer.missing.items())
        wanted = sum(offer.headers[b.index].layer_bytes * len(b.layers) for b in blocks)
        frame_class = choose_class(wanted, self._largest_class)
        grant = Grant(
            transfer_id=offer.transfer_id,
            attempt=transfer.attempt,
            lane_epoch=lane_epoch,
            frame_class=frame_class,
            blocks=blocks,
            have=have,
            refused=refused,
            retry_after_s=retry_after_s,
        )
        if not blocks:
            return [Send(grant)]
        transfer.on_lane = lane_epoch
        expect = Expect(
            transfer_id=offer.transfer_id,
            attempt=transfer.attempt,
            lane_epoch=lane_epoch,
            frame_class=frame_class,
            blocks=blocks,
        )
        return [expect, Send(grant)]

    def _abandon(self, transfer: _Transfer, reason: str) -> list[Action]:
        transfer.cancelled = True
        if transfer.on_lane is None:
            return self._drop(transfer)
        given_up = f"transfer {transfer.offer.transfer_id} given up: {reason}"
        return [BreakLane(self._direction, transfer.on_lane, given_up)]

    def _drop(self, transfer: _Transfer) -> list[Action]:
        transfer_id = transfer.offer.transfer_id
        self._active.pop(transfer_id, None)
        released = list(transfer.missing)
        transfer.missing.clear()
        return [Release(transfer_id=transfer_id, index=index) for index in released]
