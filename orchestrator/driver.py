"""Shell: keeps one stream placed: finds services, opens it there, feeds it, and starts over after a loss."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.encoder_link import encode, open_message
from orchestrator.moving import MoveFailed, Moves, Turn, first_of, open_moved, to_leave, until_better
from orchestrator.placement import NotPlaced, Placed
from orchestrator.recovery import Held, plan_start
from orchestrator.service import Service
from orchestrator.session import Session
from orchestrator.stream import Event, State
from orchestrator.waiting import stop
from tandem.core.clock import Clock
from tandem.core.errors import Incompatible, InvalidInput, TandemError, Unavailable
from tandem.core.logs import is_about

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 60.0
"""Longest wait of a new stream until an encoder has taken it, all tries together: a start of the services
with their model load fits."""
PLACE_TIMEOUT_S = 120.0
"""The same for a stream that lost its services; then it fails and its client is told to come again."""
STAY_S = 2.0
"""From one try to take a stream away from services that leave to the next."""
MAX_FAILURES = 8
"""Placements in a row that broke before any progress."""
_LOOK_S = 1.0
"""A stream without a place looks again so often: that no more services are to come is not an event."""
_BACKOFF_FIRST_S = 0.1
_BACKOFF_MAX_S = 2.0

HOPELESS = (InvalidInput, Incompatible)
"""Errors of an encoder or reasoner that another placement does not cure."""


class Driver:
    """One stream's placement, for as long as it is open."""

    def __init__(self, session: Session, cluster: Cluster, clock: Clock) -> None:
        self._session = session
        self._cluster = cluster
        self._clock = clock
        self._failures = 0
        self._stay_until_s = 0.0
        """Until then the stream stays where it is, although it could move: the last try failed."""
        self._turn = Turn()
        self._decided: Placed | None = None
        """Where a stream that moves goes: it was decided when it had to leave."""

    async def run(self) -> None:
        """Until the stream is closed. Never raises but on cancellation: failures end the stream."""
        try:
            await self._run()
        finally:
            self._turn.give_back()

    async def _run(self) -> None:
        is_about(self._session.stream_id)
        while self._session.state is not State.CLOSED:
            watermark_us = self._session.timeline.watermark_us
            try:
                await self._place_and_feed()
            except TandemError as error:
                await self._recover(error, watermark_us)
            except Exception:
                log.exception("stream %s: unexpected", self._session.stream_id)
                await self._recover(Unavailable("internal error of the orchestrator"), watermark_us)

    async def _place_and_feed(self) -> None:
        placed, encoder, reasoner = await self._find_place()
        names = (placed.encoder.name, placed.reasoner.name)
        self._cluster.placed.update(names)
        self._cluster.head_for(self._session, placed)
        try:
            await self._feed(placed, encoder, reasoner)
            self._session.happen(Event.ALL_PUBLISHED)
            self._failures = 0
            await self._until(reasoner.gone.wait(), placed, needs_encoder=False)
            raise reasoner.gone.error()
        finally:
            self._session.going_to = ("", "")
            self._cluster.placed.subtract(names)
            self._cluster.placed += Counter()  # forgets the names at 0

    async def _feed(self, placed: Placed, encoder: Service, reasoner: Service) -> None:
        session = self._session
        session.epoch += 1
        is_about(session.stream_id, session.epoch)
        try:
            held = await self._open(placed, reasoner)
        finally:
            self._turn.give_back()
        start = plan_start(session.timeline, session.checkpoints, held, session.loss)
        session.begin(start, placed.encoder.name, placed.reasoner.name)
        self._cluster.observer.placed(session, placed)
        opening = open_message(
            session,
            start,
            (placed.reasoner.name, placed.reasoner.address),
            self._cluster.ticket(placed),
        )
        traces = self._cluster.observer.frames
        gone = (encoder.gone, reasoner.gone)
        work = encode(encoder.channel, session, opening, gone, traces, encoder.metadata)
        await self._until(work, placed, needs_encoder=True)

    async def _open(self, placed: Placed, reasoner: Service) -> Held:
        session = self._session
        former = to_leave(session, self._cluster, placed)
        if former is not None:
            try:
                return await open_moved(session, self._cluster, former, placed, reasoner, self._turn)
            except TandemError as error:
                self._stay_until_s = self._clock() + STAY_S
                raise MoveFailed(f"the stream could not move: {error}") from error
        return await reasoner.link.open_stream(
            session.stream_id,
            session.epoch,
            placed.encoder.name,
            incarnation=session.nonce,
            fresh=session.is_fresh,
        )

    async def _until(self, work: Coroutine[Any, Any, None], placed: Placed, *, needs_encoder: bool) -> None:
        """Until the work is done. Raises its error, or `Moves` once the stream should leave this place."""
        task = asyncio.ensure_future(work)
        stay_s = self._stay_until_s - self._clock()
        better = until_better(
            self._session, self._cluster, placed, stay_s, self._turn, needs_encoder=needs_encoder
        )
        move = asyncio.ensure_future(better)
        try:
            await first_of(task, move)
        finally:
            await stop(task, move)

    async def _find_place(self) -> tuple[Placed, Service, Service]:
        session, said = self._session, ""
        deadline_s = self._clock() + PLACE_TIMEOUT_S
        if session.state is State.OPENING:
            deadline_s = session.opened_s + OPEN_TIMEOUT_S  # however often it was placed meanwhile
        while True:
            placed = self._place()
            if not isinstance(placed, NotPlaced):
                encoder = self._cluster.service(placed.encoder.name)
                reasoner = self._cluster.service(placed.reasoner.name)
                assert encoder is not None, placed
                assert reasoner is not None, placed
                return placed, encoder, reasoner
            if placed.hopeless:
                raise Incompatible(f"{placed.reason}; start them all with the same model and version")
            if placed.reason != said:
                log.info("stream %s waits: %s", session.stream_id, placed.reason)
                said = placed.reason
            remaining_s = deadline_s - self._clock()
            if not await self._cluster.changed.wait(min(remaining_s, _LOOK_S)) and remaining_s <= 0:
                error = Unavailable(f"no place for the stream: {placed.reason}", retry_after_s=5.0)
                session.fail(error)
                raise error

    def _place(self) -> Placed | NotPlaced:
        session, cluster = self._session, self._cluster
        decided, self._decided = self._decided, None
        if decided is not None and cluster.is_ready(decided):
            return decided
        self._turn.give_back()
        if session.lost_start and not session.reasoner and cluster.is_settling:
            return NotPlaced("whoever holds its blocks may attach again")
        names = (session.encoder or session.terms.encoder, session.reasoner or session.terms.reasoner)
        has_blocks = session.epoch > 0 or session.is_restored
        placed = cluster.place(*names, has_blocks=has_blocks, stay=self._clock() < self._stay_until_s)
        if isinstance(placed, NotPlaced):
            # Better where it was than nowhere, even if that is about to leave.
            former = cluster.place(*names, has_blocks=has_blocks, stay=True)
            if isinstance(former, Placed) and former.reasoner.name == session.reasoner:
                return former
        return placed

    async def _recover(self, error: TandemError, watermark_us: int) -> None:
        session = self._session
        if session.state is State.CLOSED:
            return
        if session.timeline.watermark_us > watermark_us:
            self._failures = 0
        if isinstance(error, Moves):
            log.info("stream %s, epoch %d moves: %s", session.stream_id, session.epoch, error)
            self._decided = error.to
            session.happen(Event.SERVICE_LOST)
            return
        self._turn.give_back()
        self._cluster.observer.lost(session, error)
        if isinstance(error, HOPELESS):
            session.fail(error)
            return
        if isinstance(error, MoveFailed):
            # Its services work, and `STAY_S` is wait enough: however often it happens, nothing is broken.
            log.warning("stream %s, epoch %d stays: %s", session.stream_id, session.epoch, error)
            session.happen(Event.SERVICE_LOST)
            return
        if session.timeline.watermark_us <= watermark_us:
            self._failures += 1
        if self._failures > MAX_FAILURES:
            session.fail(Unavailable(f"the stream broke {self._failures} times in a row: {error}"))
            return
        log.warning("stream %s, epoch %d: %s", session.stream_id, session.epoch, error)
        session.happen(Event.SERVICE_LOST)
        await asyncio.sleep(min(_BACKOFF_FIRST_S * 2 ** max(self._failures - 1, 0), _BACKOFF_MAX_S))
