"""Shell: keeps one stream watched: a call to its present reasoner, begun again wherever the stream is placed.

What the watcher thinks is forwarded to the client that feeds the stream. A client that does not read, or is
not there, costs thoughts and nothing else: the next one that it is sent says how many it missed.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

from orchestrator.cluster import Cluster
from orchestrator.messages import refusal_of, thought_of
from orchestrator.service import Service
from orchestrator.session import Session
from orchestrator.stream import State
from orchestrator.waiting import stop
from tandem.core.errors import Incompatible, InvalidInput, TandemError, WrongState
from tandem.core.ids import StreamId, may_have_notes
from tandem.core.watching import WatchMode
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tandem.wire.watching import watching_from_proto

log = logging.getLogger(__name__)

RETRY_S = 0.5
_HOPELESS = (InvalidInput, Incompatible, WrongState)
"""Errors of a reasoner that another try does not cure."""
_PLACED = frozenset({State.LIVE, State.ENDED})


def check_watching(watching: types_pb2.Watching, stream_id: str) -> None:
    """Raises `InvalidInput` that names what is out of range. `stream_id` may be empty."""
    is_off = watching_from_proto(watching).mode is WatchMode.OFF
    if stream_id and not is_off and not may_have_notes(StreamId(stream_id)):
        raise InvalidInput(f"stream id {stream_id[:80]!r} is too long to be watched (over 58 characters)")


class Watcher:
    """One stream's watcher, under the options that the session has when this is made."""

    def __init__(self, session: Session, cluster: Cluster) -> None:
        self._session = session
        self._cluster = cluster
        self._request = reasoner_pb2.WatchStreamRequest(
            stream_id=session.stream_id, watching=session.watching
        )
        self._dropped = 0
        """Thoughts that the client was not sent since the last one that it was."""

    async def run(self) -> None:
        """Until cancelled, or until a reasoner refuses to watch for good; then the client is told."""
        while True:
            service = await self._placed()
            try:
                await self._watch_at(service)
            except _HOPELESS as error:
                log.warning("stream %s is not watched: %s", self._session.stream_id, error)
                if self._session.outbox is not None:
                    self._session.outbox.put(refusal_of(error))
                return
            except TandemError as error:
                log.info("stream %s is not watched for a moment: %s", self._session.stream_id, error)
                await asyncio.sleep(RETRY_S)

    async def _placed(self) -> Service:
        while True:
            service = self._cluster.service(self._session.reasoner)
            if service is not None and self._session.state in _PLACED:
                return service
            await self._session.changed.wait(1.0)

    async def _watch_at(self, service: Service) -> None:
        """Until the stream moves to another reasoner. Raises why the call ended before."""
        # Another reasoner would give a number again that was told already: of a note that did not come along.
        self._request.last_note = self._session.begun_note
        thoughts = asyncio.ensure_future(self._forward_all(service))
        moved = asyncio.ensure_future(self._until_moved(service))
        try:
            await asyncio.wait({thoughts, moved}, return_when=asyncio.FIRST_COMPLETED)
            if thoughts.done():
                thoughts.result()
        finally:
            await stop(thoughts, moved)

    async def _until_moved(self, service: Service) -> None:
        while self._cluster.service(self._session.reasoner) is service:
            await self._session.changed.wait(1.0)

    async def _forward_all(self, service: Service) -> None:
        async with aclosing(service.link.watch(self._request)) as thoughts:
            async for thought in thoughts:
                self._forward(thought)

    def _forward(self, thought: reasoner_pb2.WatchStreamResponse) -> None:
        dropped, outbox = self._dropped + thought.dropped, self._session.outbox
        if outbox is not None and outbox.offer(thought_of(thought, dropped)):
            self._dropped = 0
        else:
            self._dropped = dropped + 1
        self._session.begun_note = max(self._session.begun_note, thought.note)
        if thought.done:
            self._session.last_note = thought.note
            self._session.changed.notify()
