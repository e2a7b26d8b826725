"""Shell: all streams of this orchestrator: opened, resumed, restored from the journal, expired, closed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterator

from orchestrator.access import ANYONE, Caller
from orchestrator.carried import best_record, carry
from orchestrator.cluster import Cluster
from orchestrator.door import Door
from orchestrator.driver import OPEN_TIMEOUT_S, Driver
from orchestrator.held_stream import Stream
from orchestrator.inventory import Holding, Inventory
from orchestrator.journal import Journal, Record
from orchestrator.meant import to_ask_about, to_resume
from orchestrator.media_share import MediaShare
from orchestrator.naming import check_name, id_of
from orchestrator.opening import check_request
from orchestrator.outbox import SAFE_S
from orchestrator.questions import Questions
from orchestrator.quotas import Quotas, check_tenant
from orchestrator.restore import hear_again, media_of, place_at_holder, place_of, restore
from orchestrator.session import Session
from orchestrator.settings import SessionSettings
from orchestrator.standing import StandingQuestions
from orchestrator.stream import Event, State
from orchestrator.tokens import check_token
from orchestrator.waiting import stop
from orchestrator.watching import Watcher
from tandem.core.clock import Clock
from tandem.core.errors import AlreadyExists, InvalidInput, NotFound, TandemError, Unavailable
from tandem.core.ids import StreamId
from tandem.core.timeline import GapReason
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2

log = logging.getLogger(__name__)

JOURNAL_PERIOD_S = 0.5
_SWEEP_PERIOD_S = 5.0  # between looks for records that nobody came back for
_DRIVER_FIRST_S = 0.5  # a driver that waits for a place says better than we do why there is none
_PLACED = frozenset({State.LIVE, State.ENDED})


class Streams:
    """The table of streams. Owned by the event loop."""

    def __init__(
        self,
        cluster: Cluster,
        journal: Journal,
        settings: SessionSettings,
        clock: Clock,
        max_streams: int,
        quotas: Quotas | None = None,
    ) -> None:
        self._cluster, self._journal, self._settings, self._clock = cluster, journal, settings, clock
        self._streams: dict[StreamId, Stream] = {}
        self._releasing: set[asyncio.Task[None]] = set()
        self.is_stopping = False
        """The orchestrator is about to end."""
        self.door = Door(cluster, quotas or Quotas(), lambda: (s.session for s in self), clock, max_streams)
        cluster.loads = self.door.loads
        self._media_share = MediaShare(cluster, quotas or Quotas())
        self.inventory = Inventory()
        self.on_left: Callable[[str, StreamId], None] = lambda reasoner, stream: None
        """Told of a stream that was given up and stays at its reasoner for a client that may come back."""
        self._swept_s = float("-inf")

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def resume_s(self) -> float:
        """How long a stream without a client is kept."""
        return self._settings.limits.resume_seconds

    def is_awaited(self, stream_id: StreamId, reasoner: str) -> bool:
        """True when what a reasoner holds of a stream is in use, or in the journal for who may come back."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream.session.reasoner == reasoner or stream.session.state not in _PLACED
        return self._journal.holds(stream_id)

    def learn(self, boot: str, holding: Holding) -> None:
        """A reasoner holds a stream that it is not asked for: it is taken up where the journal has it.

        Its client may be on the way; until it is there, others can ask about what is held.
        """
        stream = self._streams.get(holding.stream)
        if stream is not None:
            session = stream.session
            if session.nonce == holding.incarnation and not session.reasoner:
                session.reasoner, session.epoch = holding.reasoner, max(session.epoch, holding.epoch)
                session.changed.notify()
            return
        self.inventory.told(boot, holding)
        record = None if self.is_stopping else self._journal.load(holding.stream)
        if record is None or record.nonce != holding.incarnation or record.reasoner != holding.reasoner:
            return
        log.info("stream %s is taken up: %s holds it", holding.stream, holding.reasoner)
        session = Session(holding.stream, media_of(record), self._settings, self._clock)
        try:
            stream = self._restore(session, record)
        except TandemError as error:
            log.warning("stream %s waits for its client: %s", holding.stream, error)
            return
        stream.session.happen(Event.CLIENT_LOST)
        self._watch(stream, stream.session.watching)

    def get(self, name: str, caller: Caller = ANYONE) -> Stream:
        """Raises `NotFound` when no stream of that name is held that the caller may know of."""
        return to_ask_about(self._streams, name, caller)

    def owner(self, stream_id: StreamId) -> str | None:
        """Whose a stream is, held or in the journal; None: in neither."""
        session, record = self.find(stream_id), self._journal.load(stream_id)
        return session.terms.tenant if session else record.tenant if record else None

    def find(self, stream_id: StreamId) -> Session | None:
        """The session of a stream that is held, or None."""
        stream = self._streams.get(stream_id)
        return None if stream is None else stream.session

    def open(self, request: client_pb2.WatchRequest.Open, caller: Caller = ANYONE) -> Stream:
        """Open a new stream or find the one to resume. Raises what the client is told."""
        if self.is_stopping:
            raise Unavailable("the orchestrator stops", retry_after_s=2.0)
        check_request(request)
        stream = self._find_or_open(request, caller)
        self._watch(stream, request.watching if request.HasField("watching") else stream.session.watching)
        return stream

    def _find_or_open(self, request: client_pb2.WatchRequest.Open, caller: Caller) -> Stream:
        if not request.resume_token:
            return self._open_new(request)
        secret, name, token = self._cluster.secret, request.stream_id, request.resume_token
        tenant = check_tenant(request.tenant)
        stream_id = to_resume(self._streams, self.owner, secret, tenant, name, token, caller)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.session.state is not State.CLOSED:
            check_token(secret, stream_id, token, stream.session.nonce, name)
            if stream.session.media.kind != request.media.kind:
                raise InvalidInput(f"stream {name} is fed with another kind of media")
            hear_again(stream.session, request.media)
            return stream
        return self._open_again(stream_id, request)

    def forget(self, stream: Stream, event: Event = Event.FORGOTTEN) -> None:
        """Close a stream and free what is held for it, here and at its reasoner."""
        stream.session.happen(event)
        self._journal.forget(stream.session.stream_id)
        self._release(stream, NotFound(f"stream {stream.session.name} was closed"))

    def tick(self) -> None:
        """What time brings: late media, expired streams, the journal."""
        now_s = self._clock()
        self._media_share.look((stream.session for stream in self), now_s)
        for stream in self:
            session = stream.session
            session.give_up_late(now_s)
            if session.state is State.OPENING and now_s - session.opened_s > OPEN_TIMEOUT_S + _DRIVER_FIRST_S:
                why = f"no encoder took the stream within {OPEN_TIMEOUT_S:g} s"
                session.fail(Unavailable(f"{why}; see the services' logs", retry_after_s=5.0))
            if session.state is State.CLOSED:
                error = session.error or Unavailable("the stream is closed")
                if not isinstance(error, Unavailable):
                    self._journal.forget(session.stream_id)
                self._release(stream, error)
            elif session.is_expired(now_s):
                log.info("stream %s had no client for too long", session.stream_id)
                self.forget(stream, Event.EXPIRED)
            else:
                self._write_journal(stream, now_s)
        if now_s - self._swept_s >= _SWEEP_PERIOD_S:
            self._swept_s = now_s
            self._journal.forget_older_than(self._settings.limits.resume_seconds + 60.0, set(self._streams))

    async def close(self) -> None:
        """Stop everything; the journal stays, so that clients can go on with the next orchestrator."""
        self.is_stopping = True
        error = Unavailable("the orchestrator stops; resume the stream in a moment", retry_after_s=2.0)
        for stream in self:
            self._write_journal(stream, self._clock(), now=True)
            stream.session.fail(error)
            self._release(stream, error)
        await asyncio.gather(*self._releasing, return_exceptions=True)

    def _open_new(self, request: client_pb2.WatchRequest.Open) -> Stream:
        name, tenant = request.stream_id or f"s-{secrets.token_hex(6)}", check_tenant(request.tenant)
        check_name(name)
        stream_id = id_of(tenant, name)
        if stream_id in self._streams:
            raise AlreadyExists(f"stream {name} exists; resume it with its token, or take another id")
        if self._journal.is_younger_than(self._settings.limits.resume_seconds, stream_id):
            raise AlreadyExists(
                f"stream {name} is kept for its former client; resume it with its token, "
                "take another id, or come again later"
            )
        session = Session(stream_id, request.media, self._settings, self._clock)
        session.name = name
        return self._start(session, tenant, is_new=True)

    def _open_again(self, stream_id: StreamId, request: client_pb2.WatchRequest.Open) -> Stream:
        """With a token, and the stream is unknown: a former orchestrator watched it."""
        record = best_record(self._journal, self._cluster.secret, stream_id, request)
        session = Session(stream_id, request.media, self._settings, self._clock)
        known = None if record is None else record.nonce
        name = session.name = request.stream_id
        session.nonce = check_token(self._cluster.secret, stream_id, request.resume_token, known, name)
        session.loss = GapReason.ORCHESTRATOR_LOST
        if record is None or record.media_kind != request.media.kind:
            session.lost_start = session.is_restored = True
            session.epoch = int(time.time())  # above all that were counted from 1, and former losses
            is_held = place_at_holder(session, self.inventory)
            # What nobody holds has no room any more, however good its token.
            is_new = not (is_held or self._cluster.is_settling)
            return self._start(session, check_tenant(request.tenant), is_new=is_new)
        return self._restore(session, record)

    def _restore(self, session: Session, record: Record) -> Stream:
        restore(session, record)
        # As above: what its client alone tells of, and nobody holds, has no room any more.
        is_known = place_at_holder(session, self.inventory) or self._journal.holds(session.stream_id)
        stream = self._start(session, record.tenant, is_new=not (is_known or self._cluster.is_settling))
        stream.standing.restore(record.standing, record.alerts)
        return stream

    def _start(self, session: Session, tenant: str, *, is_new: bool = False) -> Stream:
        session.terms = self.door.admit(session, tenant, is_new=is_new)
        driver = Driver(session, self._cluster, self._clock)
        task = asyncio.create_task(driver.run(), name=f"stream {session.stream_id}")
        services = (session, self._cluster, self._clock)
        questions = Questions(*services, self.door)
        stream = Stream(session, questions, StandingQuestions(*services), task)
        self._streams[session.stream_id] = stream
        self._cluster.observer.began(session)
        return stream

    def _watch(self, stream: Stream, watching: types_pb2.Watching) -> None:
        """Have a stream watched in this way from now on."""
        session, former = stream.session, stream.watcher
        if watching == session.watching and former is not None and not former.done():
            return
        if former is not None:
            former.cancel()
            self._releasing.add(former)
            former.add_done_callback(self._releasing.discard)
        session.watching.CopyFrom(watching)
        session.journal_due = True
        stream.watcher = None
        if watching.mode != types_pb2.WATCH_MODE_OFF:
            name = f"watcher {session.stream_id}"
            stream.watcher = asyncio.create_task(Watcher(session, self._cluster).run(), name=name)

    def _release(self, stream: Stream, error: TandemError) -> None:
        session = stream.session
        if self._streams.get(session.stream_id) is not stream:
            return
        del self._streams[session.stream_id]
        self.door.left(session)
        if session.outbox is not None:
            session.outbox.close(error)
        task = asyncio.create_task(self._free(stream, error), name=f"free {session.stream_id}")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _free(self, stream: Stream, error: TandemError) -> None:
        await stream.questions.close(error)
        await stream.standing.close()
        await stop(stream.driver, *((stream.watcher,) if stream.watcher else ()))
        service = self._cluster.service(stream.session.reasoner)
        if service is None or self.is_stopping:
            return
        if isinstance(error, Unavailable):
            # It was given up for want of services, not of interest: what is held stays for its client.
            self.on_left(stream.session.reasoner, stream.session.stream_id)
            return
        try:
            if stream.session.stream_id not in self._streams:
                await service.link.close_stream(stream.session.stream_id)
        except TandemError as failure:
            log.warning("stream %s may still be held: %s", stream.session.stream_id, failure)

    def _write_journal(self, stream: Stream, now_s: float, *, now: bool = False) -> None:
        session, secret = stream.session, self._cluster.secret
        due = session.journal_due and session.epoch > 0
        if due and (now or now_s - stream.journal_at_s >= JOURNAL_PERIOD_S):
            stream.journal_at_s, session.journal_due = now_s, False
            record = stream.to_record(self._cluster.fence.term)
            encoded = self._journal.save(record)
            session.checkpoints.announce(place_of(record), carry(secret, record.stream_id, encoded))
            if session.outbox is not None:
                session.outbox.mark_progress(SAFE_S)
