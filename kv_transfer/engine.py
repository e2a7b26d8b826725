"""Shell. Performs what the protocol's books decide: messages out, jobs to lanes, blocks to the sink.

Event loop's thread only. It knows neither the handshake nor the control stream (see `link`), nor how lanes
are kept alive (see `lane_ends`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from kv_transfer.base import BlockSink, LinkConfig
from kv_transfer.block import Block
from kv_transfer.fetching import FetchDesk
from kv_transfer.jobs import Job, JobDone, Landed
from kv_transfer.lane_ends import LaneEnds, MakeLane
from kv_transfer.measuring import Measuring, trace_of
from kv_transfer.protocol import actions as act
from kv_transfer.protocol.frames import LARGEST_CLASS, plan_frames
from kv_transfer.protocol.handshake import Agreement
from kv_transfer.protocol.incoming import Admission, Have, IncomingBook, Refused, Reserved
from kv_transfer.protocol.outgoing import OutgoingBook
from tandem.core import transfer as msg
from tandem.core.blocks import BlockHeader, BlockKey
from tandem.core.clock import Clock
from tandem.core.errors import Incompatible, Internal, InvalidInput, LimitExceeded, TandemError, Unavailable
from tandem.core.telemetry import NO_TELEMETRY, Telemetry
from tandem.core.tracing import NO_SPAN, Span
from tandem.core.transfer import ControlMessage, Direction

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Arriving:
    """A block whose buffer is reserved."""

    header: BlockHeader
    buffer: torch.Tensor
    request_id: int
    """The fetch it belongs to; 0 when it goes to the sink."""
    landing: Span = NO_SPAN


class _Sending:
    """One offered transfer: its blocks, and a future with how each settled."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self._settled: dict[int, act.Settle] = {}
        self.done: asyncio.Future[list[act.Settle]] = asyncio.get_running_loop().create_future()

    def settle(self, settle: act.Settle) -> None:
        self._settled[settle.index] = settle
        if len(self._settled) == len(self.blocks) and not self.done.done():
            self.done.set_result([self._settled[index] for index in range(len(self.blocks))])


class Engine:
    """The running half of a link, after the handshake."""

    def __init__(
        self,
        agreement: Agreement,
        *,
        fingerprint: str,
        initiator: bool,
        sink: BlockSink,
        fetches: FetchDesk,
        config: LinkConfig,
        send: Callable[[ControlMessage], None],
        fail: Callable[[TandemError], None],
        clock: Clock,
        make_lane: MakeLane,
        telemetry: Telemetry = NO_TELEMETRY,
    ) -> None:
        self._measuring = Measuring(telemetry, clock)
        self._epoch = agreement.ticket.epoch
        self._fingerprint = fingerprint
        self._sink = sink
        self._fetches = fetches
        self.send = send
        self.fail = fail
        self._clock = clock
        self._sending: dict[int, _Sending] = {}
        self._arriving: dict[tuple[int, int], _Arriving] = {}
        self._arriving_keys: set[BlockKey] = set()
        self.lanes = LaneEnds(
            agreement, self, initiator=initiator, config=config, clock=clock, make_lane=make_lane
        )
        self._outgoing = OutgoingBook(self.lanes.out_way)
        self._incoming = IncomingBook(
            self.lanes.in_way,
            self._admit,
            credit_bytes=config.credit_bytes,
            max_pending=config.max_pending_offers,
        )

    async def offer(self, blocks: Sequence[Block], timeout_s: float, request_id: int = 0) -> list[act.Settle]:
        """Offer blocks together; how each settled, in order. Cancelling the task cancels the transfer."""
        sending = _Sending(blocks)
        headers, began_s = [block.header for block in blocks], self._clock()
        transfer_id, actions = self._outgoing.offer(headers, began_s, timeout_s, request_id, trace_of(blocks))
        self._sending[transfer_id] = sending
        try:
            self._perform(actions)
            settled = await sending.done
            self._measuring.settled(blocks, settled, began_s)
            return settled
        except asyncio.CancelledError:
            self._perform(self._outgoing.cancel(transfer_id, Unavailable("the sender was cancelled")))
            raise
        finally:
            self._sending.pop(transfer_id, None)

    def handle(self, message: ControlMessage) -> None:
        """A control message from the peer. Raises InvalidInput for one that cannot come now."""
        match message:
            case msg.Offer():
                self._perform(self._incoming.on_offer(message, self._clock()))
            case msg.Grant():
                self._perform(self._outgoing.on_grant(message, self.lanes.epochs[self.lanes.out_way]))
            case msg.Ack():
                self._perform(self._outgoing.on_ack(message))
            case msg.Nack():
                self._perform(self._outgoing.on_nack(message))
            case msg.Cancel():
                self._perform(self._incoming.on_cancel(message.transfer_id, message.reason))
            case msg.StoreSet():
                self.lanes.feed(message)
            case msg.LaneBroken():
                self.lanes.peer_lost(message)
            case msg.LaneOpen():
                self.lanes.follow(message)
            case _:
                raise InvalidInput(f"a {type(message).__name__} cannot come now")

    def tick(self) -> None:
        """Give up on what is late. Call often (every 100 ms)."""
        now_s = self._clock()
        self._perform([*self._outgoing.expire(now_s), *self._incoming.expire(now_s)])

    async def close(self, error: TandemError) -> None:
        """Settle every send, end both threads, give every buffer back."""
        self._perform(self._outgoing.close(error))
        if await self.lanes.close():
            self._perform(self._incoming.close())
        else:
            # A thread may still write to its buffers: they are lost on purpose rather than reused.
            log.error("%d buffers are abandoned", len(self._arriving))

    def on_lane_up(self, way: Direction, lane_epoch: int) -> None:
        """See `LaneEvents`."""
        if way is self.lanes.in_way:
            largest = LARGEST_CLASS[self.lanes.kinds[way]]
            self._perform(self._incoming.on_lane_up(lane_epoch, largest))

    def on_lane_down(self, way: Direction, lane_epoch: int) -> None:
        """See `LaneEvents`."""
        if way is self.lanes.in_way:
            self._perform(self._incoming.on_lane_down(lane_epoch))

    def on_landed(self, report: Landed) -> None:
        """See `LaneEvents`."""
        self._measuring.landed(report.layers)
        self._perform(self._incoming.on_layers(report.transfer_id, report.attempt, report.layers))

    def on_job_done(self, report: JobDone) -> None:
        """See `LaneEvents`."""
        if report.direction is self.lanes.in_way:
            self._perform(self._incoming.on_attempt_done(report.transfer_id, report.attempt))

    def _perform(self, actions: Iterable[act.Action]) -> None:
        for action in actions:
            match action:
                case act.Send():
                    self.send(action.message)
                case act.Transmit():
                    self._transmit(action)
                case act.Expect():
                    self._expect(action)
                case act.Settle():
                    waiter = self._sending.get(action.transfer_id)
                    if waiter is not None:
                        waiter.settle(action)
                case act.Publish():
                    self._publish(action)
                case act.Release():
                    self._release(action.transfer_id, action.index)
                case act.BreakLane():
                    self.lanes.interrupt(action.direction, action.lane_epoch, action.reason)
                case _:
                    raise AssertionError(f"no book decides {action}")

    def _job(
        self,
        order: act.Transmit | act.Expect,
        headers: tuple[BlockHeader, ...],
        memory: dict[int, torch.Tensor],
    ) -> Job:
        return Job(
            transfer_id=order.transfer_id,
            attempt=order.attempt,
            epoch=self._epoch,
            lane_epoch=order.lane_epoch,
            headers=headers,
            frames=tuple(plan_frames(headers, order.blocks, order.frame_class)),
            memory=memory,
        )

    def _transmit(self, order: act.Transmit) -> None:
        blocks = self._sending[order.transfer_id].blocks
        payloads = {index: block.payload for index, block in enumerate(blocks)}
        headers = tuple(block.header for block in blocks)
        self.lanes.submit(self.lanes.out_way, self._job(order, headers, payloads))

    def _expect(self, order: act.Expect) -> None:
        buffers = {b.index: self._arriving[order.transfer_id, b.index].buffer for b in order.blocks}
        headers = self._incoming.headers(order.transfer_id)
        self.lanes.submit(self.lanes.in_way, self._job(order, headers, buffers))

    def _admit(self, offer: msg.Offer, index: int) -> Admission:
        header = offer.headers[index]
        try:
            if header.fingerprint != self._fingerprint:
                raise Incompatible(f"block {header.key} has fingerprint {header.fingerprint}")
            if offer.request_id:
                refusal = self._fetches.judge(offer.request_id, header)
                if refusal is not None:
                    raise refusal
            elif self._sink.have(header.key, header.layer_checksums):
                return Have()
            if header.key in self._arriving_keys:
                raise LimitExceeded(f"block {header.key} is arriving already", retry_after_s=0.05)
            buffer = self._reserve(header, offer.request_id)
        except TandemError as error:
            return Refused(error)
        except Exception:
            log.exception("the sink failed to reserve %s", header.key)
            return Refused(Internal("the receiver failed to reserve room for the block"))
        landing = self._measuring.reserved(offer.trace if index == 0 else "")
        self._arriving[offer.transfer_id, index] = _Arriving(header, buffer, offer.request_id, landing)
        self._arriving_keys.add(header.key)
        return Reserved()

    def _reserve(self, header: BlockHeader, request_id: int) -> torch.Tensor:
        if request_id:
            return torch.empty(header.payload_bytes, dtype=torch.uint8)
        buffer = self._sink.reserve(header)
        Block(header, buffer)  # checks dtype, shape and length
        return buffer

    def _publish(self, action: act.Publish) -> None:
        published: list[int] = []
        for index in action.indices:
            arriving = self._arriving[action.transfer_id, index]
            try:
                if arriving.request_id:
                    self._fetches.land(arriving.request_id, Block(arriving.header, arriving.buffer))
                else:
                    self._sink.publish(arriving.header, arriving.buffer)
            except Exception as error:
                log.exception("block %s could not be published", arriving.header.key)
                self._release(action.transfer_id, index)
                reason = error if isinstance(error, TandemError) else Internal("the block was not published")
                self._perform(self._incoming.on_publish_failed(action.transfer_id, reason))
            else:
                self._forget(action.transfer_id, index)
                self._measuring.received(arriving.header, arriving.landing)
                published.append(index)
        self._perform(self._incoming.on_published(action.transfer_id, published))

    def _release(self, transfer_id: int, index: int) -> None:
        arriving = self._forget(transfer_id, index)
        if arriving is not None and not arriving.request_id:
            try:
                self._sink.release(arriving.header, arriving.buffer)
            except Exception:
                log.exception("the sink failed to release %s", arriving.header.key)

    def _forget(self, transfer_id: int, index: int) -> _Arriving | None:
        arriving = self._arriving.pop((transfer_id, index), None)
        if arriving is not None:
            self._arriving_keys.discard(arriving.header.key)
        return arriving
