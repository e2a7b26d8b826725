"""Shell: what a stream that has ended still says: its last note, and what its standing questions find."""

from __future__ import annotations

import asyncio
import logging

from orchestrator.cluster import Cluster
from orchestrator.held_stream import Stream
from tandem.core.errors import TandemError
from tandem.wire.gen.tandem.v1 import types_pb2

log = logging.getLogger(__name__)

LAST_WORDS_S = 30.0
"""Longest wait before the goodbye: a note of a slow model fits."""
_LOOK_S = 0.2


async def wait_for_last_words(stream: Stream, cluster: Cluster) -> None:
    """Until all is on its way to the client, or for `LAST_WORDS_S`. Never raises but on cancellation."""
    session = stream.session
    try:
        async with asyncio.timeout(LAST_WORDS_S):
            service = cluster.service(session.reasoner)
            if session.watching.mode != types_pb2.WATCH_MODE_OFF and service is not None:
                last = await service.link.finish_notes(session.stream_id, LAST_WORDS_S)
                # The note itself comes on another call.
                while session.last_note < last and stream.watcher is not None and not stream.watcher.done():
                    await session.changed.wait(_LOOK_S)
            while not stream.standing.is_settled:
                await session.changed.wait(_LOOK_S)
    except (TimeoutError, TandemError) as error:
        log.info("stream %s says goodbye without its last words: %r", session.stream_id, error)
