"""Shell: a stream leaves services that drain: told in time, its blocks taken along, its questions answered.

The encoder's place costs nothing: the next one goes on where the blocks end. A reasoner's blocks are fetched
by the next one while the former still answers; nothing is closed there before its last answer is given.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from orchestrator.cluster import Cluster
from orchestrator.placement import Placed
from orchestrator.recovery import Held
from orchestrator.service import Service
from orchestrator.session import Session
from tandem.core.errors import TandemError, Unavailable, WrongState
from tandem.wire.convert import range_to_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2

log = logging.getLogger(__name__)

NOBODY = "-"
"""No encoder has this name: a stream that is placed on it takes no block any more."""
ANSWER_PATIENCE_S = 60.0
"""For a stream's last questions at a reasoner that leaves."""
_LOOK_S = 1.0


class Moves(Unavailable):
    """Not a loss: the stream leaves a service that drains, because others can take it."""

    def __init__(self, message: str, to: Placed) -> None:
        super().__init__(message)
        self.to = to


class MoveFailed(Unavailable):
    """Not a loss either: the stream goes on where it was, and moves another time."""


class Turn:
    """One stream's turn to take its blocks to a reasoner. Whoever waits for one is watched where it is."""

    def __init__(self) -> None:
        self._of: asyncio.Semaphore | None = None

    async def take(self, of: asyncio.Semaphore) -> None:
        """Wait for a turn; one that was taken before is given back."""
        self.give_back()
        await of.acquire()
        self._of = of

    def give_back(self) -> None:
        """Let the next one have it; nothing happens without one."""
        if self._of is not None:
            self._of.release()
            self._of = None


async def until_better(
    session: Session, cluster: Cluster, placed: Placed, stay_s: float, turn: Turn, *, needs_encoder: bool
) -> Moves:
    """Until a stream on these services should go elsewhere, in `stay_s` at the earliest; where to, and why.

    With its blocks it goes only once it has its `turn` there: from the first step of a move on nothing is
    published of it, and it would wait in this state for those before it.
    """
    turn.give_back()
    await asyncio.sleep(max(stay_s, 0.0))
    encoder = placed.encoder if needs_encoder else None
    while True:
        if not cluster.leaves(encoder, placed.reasoner):
            await cluster.changed.wait()
            continue
        better = cluster.better_place(encoder, placed.reasoner)
        if better is None:
            await cluster.changed.wait(_LOOK_S)
            continue
        to, reason = better
        cluster.head_for(session, to)
        target = cluster.service(to.reasoner.name)
        if target is not None and to.reasoner.name != placed.reasoner.name:
            await turn.take(target.turns)
        if cluster.is_ready(to):
            return Moves(reason, to)
        turn.give_back()
        cluster.head_for(session, placed)


def to_leave(session: Session, cluster: Cluster, placed: Placed) -> Service | None:
    """The reasoner whose blocks go along to where the stream is placed now; None when there is none."""
    former = cluster.service(session.reasoner)
    if former is None or former.identity.name == placed.reasoner.name:
        return None
    return former if former.identity.fingerprint == placed.reasoner.fingerprint else None


async def open_moved(
    session: Session, cluster: Cluster, former: Service, placed: Placed, to: Service, turn: Turn
) -> Held:
    """Open a stream at `to` under its present epoch, with the blocks that `former` holds.

    The `turn` is given back at once where nothing is to be fetched.

    Raises:
        TandemError: it did not work; what `former` holds is there as before.
    """
    stream, epoch, nonce = session.stream_id, session.epoch, session.nonce
    # From now on nothing is published there: what is fetched is all there will be.
    held = await former.link.open_stream(stream, epoch, NOBODY, incarnation=nonce, fresh=False)
    source = reasoner_pb2.OpenStreamRequest.Source(
        name=former.identity.name,
        address=former.identity.address,
        ticket=cluster.move_ticket(placed.reasoner, former.identity),
        next_block_number=held.next_block_number,
        evicted=[range_to_proto(part) for part in held.evicted],
        blocks=held.blocks,
        # What it keeps, whoever was told: the session may not have heard of one since it is there.
        last_note=held.last_note or session.last_note,
    )
    encoder = placed.encoder.name
    try:
        moved = await to.link.open_stream(
            stream, epoch, encoder, incarnation=nonce, fresh=False, source=source
        )
    except WrongState as error:
        # They share a data directory: the next one reads it as soon as the former lets go.
        turn.give_back()
        log.info("stream %s moves by way of the disk: %s", stream, error)
        await former.link.close_when_answered(stream, ANSWER_PATIENCE_S)
        return await to.link.open_stream(stream, epoch, encoder, incarnation=nonce, fresh=False)
    log.info("stream %s: %s has the %d blocks of %s", stream, to.identity.name,
             moved.next_block_number, former.identity.name)  # fmt: skip
    cluster.later(_close(former, session), f"close {stream} at {former.identity.name}")
    return moved


async def _close(former: Service, session: Session) -> None:
    if session.reasoner == former.identity.name:
        return  # the session could not take its new place after all
    try:
        await former.link.close_when_answered(session.stream_id, ANSWER_PATIENCE_S)
    except TandemError as error:
        log.info("stream %s may still be held at %s: %s", session.stream_id, former.identity.name, error)


async def first_of(work: asyncio.Future[None], move: asyncio.Future[Moves]) -> None:
    """Until the work is done. Raises its error, or `Moves`."""
    both: set[asyncio.Future[Any]] = {work, move}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        raise move.result()
    work.result()
