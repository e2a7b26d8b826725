"""Shell: keeps one stream placed: finds services, opens it there, feeds it, and starts over after a loss."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from orchestrator.cluster import Cluster, Service
from orchestrator.encoder_link import encode, open_message
from orchestrator.placement import NotPlaced, Placed
from orchestrator.recovery import plan_start
from orchestrator.session import Session
from orchestrator.stream import Event, State
from tandem.core.clock import Clock
from tandem.core.errors import Incompatible, InvalidInput, TandemError, Unavailable
from tandem.core.logs import is_about

log = logging.getLogger(__name__)

OPEN_TIMEOUT_S = 60.0
"""Longest wait of a new stream until an encoder has taken it, all tries together: a start of the services
with their model load fits."""
PLACE_TIMEOUT_S = 120.0
"""The same for a stream that lost its services; then it fails and its client is told to come again."""
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

    async def run(self) -> None:
        """Until the stream is closed. Never raises but on cancellation: failures end the stream."""
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
        try:
            await self._feed(placed, encoder, reasoner)
            self._session.happen(Event.ALL_PUBLISHED)
            self._failures = 0
            await reasoner.gone.wait()
            raise reasoner.gone.error()
        finally:
            self._cluster.placed.subtract(names)
            self._cluster.placed += Counter()  # forgets the names at 0

    async def _feed(self, placed: Placed, encoder: Service, reasoner: Service) -> None:
        session = self._session
        session.epoch += 1
        is_about(session.stream_id, session.epoch)
        held = await reasoner.link.open_stream(
            session.stream_id,
            session.epoch,
            placed.encoder.name,
            incarnation=session.nonce,
            fresh=session.is_fresh,
        )
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
        await encode(encoder.channel, session, opening, (encoder.gone, reasoner.gone), traces)

    async def _find_place(self) -> tuple[Placed, Service, Service]:
        session, said = self._session, ""
        deadline_s = self._clock() + PLACE_TIMEOUT_S
        if session.state is State.OPENING:
            deadline_s = session.opened_s + OPEN_TIMEOUT_S  # however often it was placed meanwhile
        while True:
            placed = self._cluster.place(session.encoder, session.reasoner)
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

    async def _recover(self, error: TandemError, watermark_us: int) -> None:
        session = self._session
        if session.state is State.CLOSED:
            return
        self._cluster.observer.lost(session, error)
        if isinstance(error, HOPELESS):
            session.fail(error)
            return
        self._failures = 0 if session.timeline.watermark_us > watermark_us else self._failures + 1
        if self._failures > MAX_FAILURES:
            session.fail(Unavailable(f"the stream broke {self._failures} times in a row: {error}"))
            return
        log.warning("stream %s, epoch %d: %s", session.stream_id, session.epoch, error)
        session.happen(Event.SERVICE_LOST)
        await asyncio.sleep(min(_BACKOFF_FIRST_S * 2 ** max(self._failures - 1, 0), _BACKOFF_MAX_S))
