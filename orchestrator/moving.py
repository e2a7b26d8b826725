"""Shell: a stream leaves services that drain: told in time, its blocks taken along, its questions answered.

The encoder's place costs nothing: the next one goes on where the blocks end. A reasoner's blocks are fetched
by the next one while the former still answers; nothing is closed there before its last answer is given.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from orchestrator.cluster import Cluster, Service
from orchestrator.placement import Placed
from orchestrator.recovery import Held
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
    """Not a loss: the stream leaves a service that drains, because another can take it."""


async def until_better(cluster: Cluster, placed: Placed, stay_s: float, *, needs_encoder: bool) -> Moves:
    """Until a stream on these services should be placed anew, in `stay_s` at the earliest; why."""
    await asyncio.sleep(max(stay_s, 0.0))
    encoder = placed.encoder if needs_encoder else None
    while (reason := cluster.better_place(encoder, placed.reasoner)) is None:
        await cluster.changed.wait(_LOOK_S)
    return Moves(reason)


def to_leave(session: Session, cluster: Cluster, placed: Placed) -> Service | None:
    """The reasoner whose blocks go along to where the stream is placed now; None when there is none."""
    former = cluster.service(session.reasoner)
    if former is None or former.identity.name == placed.reasoner.name:
        return None
    return former if former.identity.fingerprint == placed.reasoner.fingerprint else None


async def open_moved(
    session: Session, cluster: Cluster, former: Service, placed: Placed, to: Service
) -> Held:
    """Open a stream at `to` under its present epoch, with the blocks that `former` holds.

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
    )
    encoder = placed.encoder.name
    try:
        moved = await to.link.open_stream(
            stream, epoch, encoder, incarnation=nonce, fresh=False, source=source
        )
    except WrongState as error:
        # They share a data directory: the next one reads it as soon as the former lets go.
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
