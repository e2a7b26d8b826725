"""Shell. This end's two lanes, one each way: their threads, rendezvous, rebuilding and fallback.

Knows nothing of transfers: what the threads report of frames is passed on. Everything runs in the event
loop's thread except `_post`, through which the I/O threads reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from kv_transfer.base import LinkConfig
from kv_transfer.jobs import Exited, Job, JobDone, Landed, LaneDown, LaneUp, Report
from kv_transfer.lanes.base import Lane, LaneContext, LaneStore
from kv_transfer.protocol.actions import CloseLink, OpenLane
from kv_transfer.protocol.handshake import Agreement
from kv_transfer.protocol.lanes import LaneDirector
from kv_transfer.worker import RELIEF_S, LaneWorker
from tandem.core.clock import Clock
from tandem.core.errors import InvalidInput, TandemError
from tandem.core.transfer import ControlMessage, Direction, LaneBroken, LaneKind, LaneOpen, StoreSet

log = logging.getLogger(__name__)
MakeLane = Callable[[LaneKind, LaneContext], Lane]


class LaneEvents(Protocol):
    """Who is told what the lanes report."""

    def on_lane_up(self, way: Direction, lane_epoch: int) -> None:
        """The lane is open and proven."""
        ...

    def on_lane_down(self, way: Direction, lane_epoch: int) -> None:
        """The lane is closed at this end; its thread touches no memory of its jobs any more."""
        ...

    def on_landed(self, report: Landed) -> None:
        """Layers have landed."""
        ...

    def on_job_done(self, report: JobDone) -> None:
        """An attempt's last frame has moved."""
        ...

    def send(self, message: ControlMessage) -> None:
        """Send a control message."""
        ...

    def fail(self, error: TandemError) -> None:
        """The link cannot go on."""
        ...


class LaneEnds:
    """Both lanes of one end of a link."""

    def __init__(
        self,
        agreement: Agreement,
        events: LaneEvents,
        *,
        initiator: bool,
        config: LinkConfig,
        clock: Clock,
        make_lane: MakeLane,
    ) -> None:
        self._agreement = agreement
        self._events = events
        self._initiator = initiator
        self._config = config
        self._clock = clock
        self._make_lane = make_lane
        self.out_way = Direction.FORWARD if initiator else Direction.REVERSE
        self.in_way = Direction.REVERSE if initiator else Direction.FORWARD
        self.epochs = dict.fromkeys(Direction, 0)
        """Epoch of the lane opened last, by direction; 0 before the first."""
        self.kinds: dict[Direction, LaneKind] = {}
        """Kind of the lane opened last, by direction."""
        self.all_up = asyncio.Event()
        """Set while both lanes are open."""
        self._up: set[Direction] = set()
        self._stores: dict[Direction, LaneStore] = {}
        self._directors = {
            way: LaneDirector(way, agreement.lanes, config.max_rebuilds, config.rebuild_window_s)
            for way in Direction
        }
        self._closing = False
        self._running = set(Direction)
        self._exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._post_guard = threading.Lock()
        self._posted: list[Report | StoreSet] = []
        self._workers = {
            way: LaneWorker(
                way,
                sends=way is self.out_way,
                report=self._post,
                frame_timeout_s=config.frame_timeout_s,
            )
            for way in Direction
        }

    def start(self) -> None:
        """Initiator: order both lanes. The acceptor waits for the orders."""
        if self._initiator:
            for director in self._directors.values():
                self._order(director.first())

    def submit(self, way: Direction, job: Job) -> None:
        """Queue a job on the lane of this direction."""
        self._workers[way].submit(job)

    def interrupt(self, way: Direction, lane_epoch: int, reason: str) -> None:
        """Break the lane of this epoch, and it is rebuilt; nothing happens when it was replaced already."""
        if lane_epoch == self.epochs[way]:
            self._call_away(way, reason)

    def follow(self, order: LaneOpen) -> None:
        """Acceptor: the initiator orders a lane."""
        newest = self.epochs[order.direction]
        if self._initiator or order.lane_epoch <= newest or order.kind not in self._agreement.lanes:
            raise InvalidInput(f"an order to open lane {order.kind} under epoch {order.lane_epoch}")
        self._open(order.direction, order.lane_epoch, order.kind)

    def feed(self, message: StoreSet) -> None:
        """A rendezvous key of the peer; one of an older lane is ignored."""
        if message.lane_epoch == self.epochs[message.direction]:
            self._stores[message.direction].feed(message.key, message.value)

    def peer_lost(self, message: LaneBroken) -> None:
        """The peer's end of a lane is gone; ours follows and is rebuilt."""
        if message.lane_epoch == self.epochs[message.direction]:
            self._call_away(message.direction, f"the peer lost it: {message.reason}")

    async def close(self) -> bool:
        """Close both lanes and end their threads; False when one did not end in time."""
        self._closing = True
        for worker in self._workers.values():
            worker.stop()
            self._loop.call_later(RELIEF_S, worker.relieve)
        try:
            # A lane that is being opened may hear of the end only when its time to open is up.
            patience_s = self._config.lane_open_timeout_s + self._config.close_timeout_s
            async with asyncio.timeout(patience_s):
                await self._exited.wait()
        except TimeoutError:
            log.error("an I/O thread of pair %s did not end in time", self._agreement.ticket.pair_id)
            return False
        return all(worker.join(self._config.close_timeout_s) for worker in self._workers.values())

    def _order(self, order: OpenLane) -> None:
        message = LaneOpen(direction=order.direction, lane_epoch=order.lane_epoch, kind=order.kind)
        self._events.send(message)
        self._open(order.direction, order.lane_epoch, order.kind)

    def _open(self, way: Direction, lane_epoch: int, kind: LaneKind) -> None:
        def publish(key: str, value: bytes) -> None:
            self._post(StoreSet(direction=way, lane_epoch=lane_epoch, key=key, value=value))

        ticket, config = self._agreement.ticket, self._config
        self.epochs[way], self.kinds[way] = lane_epoch, kind
        self._stores[way] = LaneStore(publish)
        context = LaneContext(
            pair_id=ticket.pair_id,
            epoch=ticket.epoch,
            lane_epoch=lane_epoch,
            direction=way,
            initiator=self._initiator,
            secret=self._agreement.pair_secret,
            store=self._stores[way],
            shm_directory=config.shm_directory,
            gloo_host=config.gloo_host,
            device=config.device,
            open_timeout_s=config.lane_open_timeout_s,
        )
        self._workers[way].open(self._make_lane(kind, context))
        self._loop.call_later(RELIEF_S, self._workers[way].relieve)

    def _call_away(self, way: Direction, reason: str) -> None:
        self._workers[way].interrupt(reason)
        self._loop.call_later(RELIEF_S, self._workers[way].relieve)

    def _post(self, report: Report | StoreSet) -> None:
        """Any thread: hand a report to the event loop; those close together are handled together."""
        with self._post_guard:
            self._posted.append(report)
            if len(self._posted) > 1:
                return
        with contextlib.suppress(RuntimeError):  # the loop was closed under an open link
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        with self._post_guard:
            posted, self._posted = self._posted, []
        for report in posted:
            self._on_report(report)

    def _on_report(self, report: Report | StoreSet) -> None:
        match report:
            case Landed():
                self._events.on_landed(report)
            case JobDone():
                self._events.on_job_done(report)
            case LaneUp():
                self._up.add(report.direction)
                if len(self._up) == len(Direction):
                    self.all_up.set()
                self._events.on_lane_up(report.direction, report.lane_epoch)
            case LaneDown():
                self._on_down(report)
            case StoreSet():
                self._events.send(report)
            case Exited():
                self._running.discard(report.direction)
                if not self._running:
                    self._exited.set()

    def _on_down(self, report: LaneDown) -> None:
        way, epoch = report.direction, report.lane_epoch
        if epoch == self.epochs[way]:
            self._up.discard(way)
            self.all_up.clear()
        self._events.on_lane_down(way, epoch)
        if self._closing or epoch != self.epochs[way]:
            return
        log.warning(
            "%s lane %d of pair %s is down: %s", way, epoch, self._agreement.ticket.pair_id, report.reason
        )
        if not self._initiator:
            self._events.send(LaneBroken(direction=way, lane_epoch=epoch, reason=report.reason))
            return
        decision = self._directors[way].broken(
            self._clock(), lane_epoch=epoch, was_up=report.was_up, reason=report.reason
        )
        if isinstance(decision, CloseLink):
            self._events.fail(decision.error)
        elif decision is not None:
            self._order(decision)
