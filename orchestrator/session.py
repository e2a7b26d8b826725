"""Shell without waiting: one stream's state, and everything that changes it, synchronously.

The gateway brings what the client sends, the driver what the services say; both run on one event loop, so
no method is ever interrupted. Nothing here does I/O: `changed` wakes whoever has some to do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from orchestrator.backlog import Backlog, Item, Media
from orchestrator.checkpoints import Checkpoint, Checkpoints
from orchestrator.outbox import RECEIVED_S, Outbox
from orchestrator.pace import Pace
from orchestrator.progress import progress_from_proto
from orchestrator.recovery import Start
from orchestrator.settings import SessionSettings
from orchestrator.stream import Action, Event, State, advance
from orchestrator.terms import Terms
from orchestrator.timeline import GONE_AGAIN, Timeline
from orchestrator.tokens import make_nonce
from orchestrator.waiting import Signal
from tandem.core.clock import Clock
from tandem.core.errors import AlreadyExists, TandemError
from tandem.core.ids import StreamId
from tandem.core.timeline import Gap, GapReason
from tandem.wire.convert import gap_from_proto, range_from_proto
from tandem.wire.gen.tandem.v1 import client_pb2, encoder_pb2, reasoner_pb2, types_pb2

log = logging.getLogger(__name__)


class Session:
    """One stream. Owned by the event loop."""

    def __init__(
        self,
        stream_id: StreamId,
        media: types_pb2.MediaOptions,
        settings: SessionSettings,
        clock: Clock,
    ) -> None:
        self.stream_id = stream_id
        self.name: str = stream_id
        """What its client calls it."""
        self.nonce = make_nonce()
        """Of this incarnation: a token of a former stream of this id does not have it."""
        self.media = media
        self.watching = types_pb2.Watching()
        self.last_note = self.begun_note = 0
        """Numbers of the last note that was told to its end, and of the newest of which anything was told."""
        self.settings = settings
        self.clock = clock
        self.changed = Signal()
        self.state = State.OPENING
        self.error: TandemError | None = None
        """Why it failed; set in state CLOSED only."""
        self.epoch = 0
        self.timeline = Timeline()
        self.backlog = Backlog(settings.bounds)
        self.checkpoints = Checkpoints(Checkpoint(position=0, time_us=0))
        self.loss = GapReason.REASONER_LOST
        """The reason to give for what the next placement finds gone."""
        self.is_restored = self.lost_start = False
        """A former orchestrator watched it; `lost_start` while nothing else is known of that."""
        self.begins_us = 0
        """Stream time of the first frame, where no decoder header says."""
        self.next_position = 0
        self.media_ended = False
        self.forget_after = False
        self.model = types_pb2.ModelInfo()
        self.terms = Terms()
        self.sample_fps, self.rate_reason = 0.0, ""
        """What is watched, and why that is less than was asked for."""
        self.encoder, self.reasoner = "", ""
        self.going_to = ("", "")
        """Encoder and reasoner that it was given last, from the decision on; empty while it has no place."""
        self.outbox: Outbox | None = None
        self.opened_s = clock()
        self.alone_since_s: float | None = None
        """Since when no client is there; None while one is."""
        self.questions = 0
        """Questions being answered, of all askers."""
        self.journal_due = False
        self.last_pts_us = self._refused_before = 0
        self.pace = Pace(clock(), settings.bounds.max_wait_s)
        self.progress_s = clock()
        """When an encoder last said anything."""

    # --- life -------------------------------------------------------------------------------------------

    def happen(self, event: Event) -> tuple[Action, ...]:
        """Go through the table; what the session itself must do is done, the rest is returned."""
        step = advance(self.state, event)
        if step.state is not self.state:
            log.info("stream %s: %s -> %s (%s)", self.stream_id, self.state, step.state, event)
        self.state = step.state
        if Action.START_EXPIRY in step.actions:
            self.alone_since_s = self.clock()
        if Action.STOP_EXPIRY in step.actions:
            self.alone_since_s = None
        self.changed.notify()
        return step.actions

    def fail(self, error: TandemError) -> None:
        """The stream cannot go on. The attached client is told by the status of its call."""
        if self.state is State.CLOSED:
            return
        log.warning("stream %s failed: %s", self.stream_id, error)
        self.error = error
        self.happen(Event.FAILED)
        if self.outbox is not None:
            self.outbox.close(error)

    def is_expired(self, now_s: float) -> bool:
        """True when it was without a client, and without questions, for too long."""
        if self.alone_since_s is None or self.questions:
            return False
        return now_s - self.alone_since_s > self.settings.limits.resume_seconds

    def attach(self, outbox: Outbox) -> None:
        """A client takes the stream; a former call is told that it was taken over."""
        if self.outbox is not None:
            self.outbox.close(AlreadyExists("another connection resumed this stream"), now=True)
        self.outbox = outbox
        self.happen(Event.CLIENT_BACK)

    def detach(self, outbox: Outbox) -> None:
        """The call of `outbox` is over."""
        outbox.close(None, now=True)
        if self.outbox is outbox:
            self.outbox = None
            self.happen(Event.CLIENT_LOST)

    @property
    def is_fresh(self) -> bool:
        """True while nothing of it was ever published: what a reasoner has of its id is of another stream."""
        return not (self.is_restored or self.timeline.highest_us or self.timeline.watermark_us)

    def start_at(self, place: Checkpoint, watermark_us: int, gaps: Iterable[Gap]) -> None:
        """Go on where a former orchestrator left the stream. Only before anything happened."""
        self.is_restored = True
        self.backlog = Backlog(self.settings.bounds, start=place.position)
        self.checkpoints = Checkpoints(place)
        self.next_position = place.position
        self.timeline.receive(watermark_us)
        self.timeline.watermark_us = watermark_us
        self.timeline.gaps = list(gaps)

    # --- from the client --------------------------------------------------------------------------------

    def end(self, *, forget: bool) -> None:
        """No more media."""
        self.media_ended, self.forget_after = True, forget
        self.changed.notify()

    @property
    def is_empty(self) -> bool:
        """True while there is nothing to ask about."""
        return self.timeline.received_us == 0 and (not self.is_bytes or self.next_position == 0)

    def must_wait(self, size_bytes: int) -> bool:
        """True while the client should be held back: the encoder is at work and behind."""
        is_live = self.state is State.LIVE
        is_closed = self.state is State.CLOSED
        return not is_closed and self.pace.must_wait(self.backlog, size_bytes, self.clock(), is_live=is_live)

    # --- from the services ------------------------------------------------------------------------------

    def begin(self, start: Start, encoder: str, reasoner: str) -> None:
        """A placement begins: stand where it starts."""
        log.info("stream %s, epoch %d on %s and %s: %s", self.stream_id, self.epoch, encoder, reasoner,
                 start.reason)  # fmt: skip
        self.encoder, self.reasoner = encoder, reasoner
        self.timeline.refill(start.from_us, GONE_AGAIN)
        if start.gap is not None:
            self.timeline.declare(start.gap)
        self.timeline.restart(
            from_us=start.from_us,
            position=start.position,
            next_block_number=start.next_block_number,
            durable_us=start.durable_us,
        )
        self.checkpoints.restart(
            Checkpoint(position=start.position, time_us=start.from_us, decoder_header=start.decoder_header)
        )
        self.backlog.rewind(start.position)
        self.loss = GapReason.REASONER_LOST
        self.timeline.receive(start.from_us)  # the journal may be behind what is held
        if self.lost_start:
            self.begins_us, self.lost_start = start.from_us, not self.is_bytes
        self._tell()

    def opened(self, opened: encoder_pb2.EncodeResponse.Opened) -> None:
        """The encoder is ready for media."""
        self.model, self.sample_fps = opened.model, opened.sample_fps
        self.pace.live(self.clock())
        self.happen(Event.PLACED)

    def take(self) -> Item | None:
        """The next item for the encoder, or None while there is none or it has enough."""
        if self.backlog.is_ahead:
            return None
        return self.backlog.take()

    def progress(self, message: encoder_pb2.EncodeResponse.Progress) -> None:
        """The encoder went on."""
        timeline, before = self.timeline, self.timeline.consumed_position
        self.progress_s = self.clock()
        timeline.apply(progress_from_proto(message))
        if message.sample_fps:
            self.sample_fps, self.rate_reason = message.sample_fps, message.rate_reason
        if self.is_bytes:
            timeline.receive(message.decoded_us)
        if timeline.consumed_position > before:
            self.pace.moved(self.clock())
        for gap in message.gaps:
            self.timeline.declare(gap_from_proto(gap))
        known = self.checkpoints.latest.decoder_header
        header = message.decoder_header if message.HasField("decoder_header") else known
        self.checkpoints.add(
            Checkpoint(position=timeline.safe_position, time_us=timeline.watermark_us, decoder_header=header)
        )
        self.backlog.taken_in(timeline.consumed_position)
        self._release()

    def refused(self, message: encoder_pb2.EncodeResponse.Refused) -> None:
        """The encoder could not use something. A replay refuses it again: the client hears it once."""
        if message.position < self._refused_before:
            return
        self._refused_before = message.position + 1
        if self.outbox is not None:
            refusal = client_pb2.WatchResponse.Refusal(error=message.error, position=message.position)
            self.outbox.put(client_pb2.WatchResponse(refusal=refusal))

    def held(self, state: reasoner_pb2.StreamState) -> None:
        """The reasoner says what it holds: what is on disk, and what was removed to stay within a budget."""
        if state.epoch != self.epoch:
            return
        for part in state.evicted:
            self.timeline.declare(Gap(range_from_proto(part), GapReason.EVICTED))
        if state.HasField("durable_watermark_us"):
            self.timeline.durable_us = max(self.timeline.durable_us or 0, state.durable_watermark_us)
        self._release()

    def give_up_late(self, now_s: float) -> None:
        """Media that waited too long for an encoder that is there and takes nothing in becomes a gap."""
        if self.state is State.LIVE and not self.pace.is_moving(now_s):
            self._declare_dropped(self.backlog.give_up_late(now_s, self.pace.live_s))

    def limit_media(self, max_bytes: int) -> None:
        """Keep at most so much media from now on."""
        self.backlog.limit(max_bytes)
        self._forget_checkpoints()

    @property
    def is_bytes(self) -> bool:
        """True for an encoded stream, False for pictures."""
        return self.media.kind != types_pb2.MEDIA_KIND_PICTURES

    def append(self, position: int, length: int, time_us: int, data: bytes, picture: object) -> None:
        """Keep media for the encoder; what the bound pushes out becomes a gap."""
        media = Media(
            position=position,
            length=length,
            time_us=time_us,
            data=data,
            arrived_s=self.clock(),
            picture=picture,
        )
        self._declare_dropped(self.backlog.append(media))
        self._forget_checkpoints()
        self._tell(RECEIVED_S)

    def _declare_dropped(self, gaps: list[Gap]) -> None:
        """For bytes the interval is not known here: the encoder reports it when it meets the hole."""
        for gap in () if self.is_bytes else gaps:
            self.timeline.declare(gap)
        if gaps:
            self._tell()

    def _release(self) -> None:
        timeline, durable_us = self.timeline, self.timeline.durable_us
        durable = None if durable_us is None else self.checkpoints.choose(durable_us).position
        self.backlog.release(timeline.safe_position, timeline.watermark_us, durable)
        self._forget_checkpoints()
        self._tell()

    def _forget_checkpoints(self) -> None:
        front_us = self.backlog.front_us
        self.checkpoints.forget_before(
            self.backlog.front, self.timeline.received_us if front_us is None else front_us
        )

    def _tell(self, wait_s: float = 0.0) -> None:
        self.journal_due = True
        if self.outbox is not None:
            self.outbox.mark_progress(wait_s)
        self.changed.notify()
