"""Shell. An encoded stream as a source of units: demux, decode, time, sample.

Knows no container and no codec. Damage is declared once per run of bad frames; after missing bytes decoding
begins afresh at the next key frame.
"""

from __future__ import annotations

import time
from collections import deque

from encoder_svc.admit import CheckShape, ChunkOrder, MediaLimits, check_bytes
from encoder_svc.decode.decoders import INSIDE, DecoderLost, Decoders, Video
from encoder_svc.decode.packets import Damage, Demuxed, Demuxer, EncodedPacket
from encoder_svc.decode.pictures import Rgb
from encoder_svc.decode.source import (
    MAX_DECODED,
    DecodedFrame,
    Item,
    RawChunk,
    Refusal,
    SourceEvent,
    Start,
)
from encoder_svc.decode.timing import FrameTimer
from encoder_svc.decode.underway import Underway
from encoder_svc.decode.video import Decoded
from encoder_svc.ledger import SyncPoint
from encoder_svc.sample import Sampler
from tandem.core.errors import BadMedia, InvalidInput, TandemError
from tandem.core.timeline import Gap, GapReason

_SLICE_S = 0.02
"""Longest piece of work before other streams' pieces get the thread."""
_SLICE_UNITS = 4
"""Most sampled units that wait outside the service's budgets."""


class EncodedSource:
    """Decodes one encoded stream and samples it.

    A stream that can never be decoded (unknown codec, no video) is refused once; its bytes are then taken in
    and dropped, so that the call and its questions go on.
    """

    def __init__(
        self,
        demuxer: Demuxer,
        timer: FrameTimer,
        sampler: Sampler[Rgb],
        limits: MediaLimits,
        check_shape: CheckShape,
        *,
        position: int = 0,
        decoders: Decoders = INSIDE,
    ) -> None:
        self._decoders = decoders
        self._demuxer = demuxer
        self._timer = timer
        self._sampler = sampler
        self._limits = limits
        self._check_shape = check_shape
        self._order = ChunkOrder(position)
        self._todo: deque[Demuxed] = deque()
        self._events: list[SourceEvent] = []
        self._gap: Gap | None = None
        self._ended = self._dead = self._complained = self._shown = False
        self._forget_decoder()
        self._tag = self._packet_bytes = 0
        self.decoded_us = sampler.covered_us or 0
        """Time of the latest frame."""
        self.decoded_position = position
        """Every frame that begins before it has been decoded, or never will be."""
        self._frames: deque[DecodedFrame] = deque(maxlen=MAX_DECODED)

    def _forget_decoder(self) -> None:
        self._decoder: Video | None = None
        self._underway = Underway()

    @property
    def consumed(self) -> int:
        """The next byte."""
        return self._order.next_offset

    @property
    def origin_us(self) -> int:
        """Container time of stream time 0."""
        return self._timer.origin_us

    def feed(self, item: Item) -> None:
        """Take a chunk or a gap. Raises InvalidInput for a picture."""
        if isinstance(item, Gap):
            self._settle_gap()
            self._gap = item
        elif isinstance(item, RawChunk):
            self._take_chunk(item)
        else:
            raise InvalidInput("this stream takes chunks, not pictures")

    def finish(self) -> None:
        """No more bytes."""
        self._settle_gap()
        if not self._dead:
            try:
                self._todo += self._demuxer.finish()
            except BadMedia as error:
                self._die(error)
        self._ended = True

    def close(self) -> None:
        """See `Source`."""
        self._decoders.close()

    def advance(self) -> tuple[list[SourceEvent], bool]:
        """Decode for a while."""
        deadline_s = time.monotonic() + _SLICE_S
        while self._todo and len(self._events) < _SLICE_UNITS and time.monotonic() < deadline_s:
            self._use(self._todo.popleft())
        ends = self._ended and not self._todo
        if ends:
            self._ended = False
            self._drain()
            self._complain_of_nothing()
            self._events += self._sampler.finish()
        if not self._todo:
            # Behind a frame that is not complete, or is held back, others may be decoded already.
            position = self.consumed if ends or self._dead else self._first_undecoded()
            self.decoded_position = max(self.decoded_position, position)
        events, self._events = self._events, []
        return events, bool(self._todo)

    def take_decoded(self) -> list[DecodedFrame]:
        """The frames since the last call. Any thread: they come in the decoder's, and are told in another."""
        return [self._frames.popleft() for _ in range(len(self._frames))]

    def _first_undecoded(self) -> int:
        held, unfinished = self._underway.position, min(self._demuxer.unfinished, self.consumed)
        return unfinished if held is None else min(held, unfinished)

    def _complain_of_nothing(self) -> None:
        """At the end: bytes that never gave a key frame were refused nowhere else."""
        if self._tag and not self._shown and not self._dead and not self._complained:
            self._events.append(Refusal(BadMedia("no frame could be decoded: no key frame came"), 0))

    def _take_chunk(self, chunk: RawChunk) -> None:
        try:
            check_bytes(len(chunk.data), self._limits, "chunk")
            skipped, missing = self._order.admit(chunk.offset, len(chunk.data))
        except TandemError as error:
            self._events.append(Refusal(error, chunk.offset))
            return
        if missing:
            self._jump(chunk.offset, missing)
        else:
            self._settle_gap()
        if self._dead or skipped == len(chunk.data):
            return
        try:
            self._todo += self._demuxer.feed(chunk.data[skipped:] if skipped else chunk.data)
        except BadMedia as error:
            self._die(error)

    def _die(self, error: BadMedia) -> None:
        """Nothing more will ever come out of these bytes."""
        self._dead = True
        self._events.append(Refusal(error, self._order.next_offset))

    def _settle_gap(self) -> None:
        """A gap without missing bytes: only time passes."""
        if self._gap is not None:
            gap, self._gap = self._gap, None
            if self._tag == 0:
                self._timer.jump(gap.range.end_us)
            self._events += self._sampler.skip(gap)

    def _jump(self, position: int, missing: int) -> None:
        self._drain()
        self._forget_decoder()
        self._demuxer.jump(position)
        self._sampler.note(GapReason.BACKLOG_FULL)
        if self._gap is None:
            self._timer.lost(self._frames_in(missing))
        else:
            self._timer.jump(self._gap.range.end_us)
        self._settle_gap()

    def _frames_in(self, count: int) -> int:
        """About how many frames so many bytes held, going by those that came."""
        return round(count * self._tag / self._packet_bytes) if self._packet_bytes else 0

    def _use(self, item: Demuxed) -> None:
        if isinstance(item, Damage):
            self._complain(item.error, item.position, None)
            return
        self._tag += 1
        self._packet_bytes += len(item.data)
        if self._decoder is None:
            if not item.key:
                self._skip_until_key(item)
                return
            setup = self._demuxer.setup
            assert setup is not None, "a demuxer gave a packet before its setup"
            try:
                self._decoder = self._decoders.video(setup, self._limits)
            except BadMedia as error:
                self._todo.clear()
                self._die(error)
                return
            self._timer.begin()
        if item.key:
            self._timer.key(self._tag)
        self._decode(self._decoder, item)

    def _skip_until_key(self, item: EncodedPacket) -> None:
        self._sampler.note(GapReason.UNDECODABLE, self._timer.relative_us(item.time_us))
        self._timer.lost()

    def _decode(self, decoder: Video, packet: EncodedPacket) -> None:
        self._underway.give(self._tag, packet)
        try:
            frames = decoder.decode(packet.data, self._tag)
        except BadMedia as error:
            self._underway.refused(self._tag)
            self._timer.lost()
            self._complain(error, self._order.next_offset, packet.time_us)
            return
        for frame in frames:
            self._show(decoder, frame)

    def _drain(self) -> None:
        if self._decoder is not None:
            for frame in self._decoder.drain():
                self._show(self._decoder, frame)
            self._underway.drained()

    def _show(self, decoder: Video, frame: Decoded) -> None:
        packet = self._underway.came(frame.tag)
        container_us = packet.time_us if packet else None
        try:
            time_us = self._timer.time_us(frame.tag, container_us)
            if time_us is None:
                return
            if not frame.whole:
                raise BadMedia("a frame is damaged")
            self._sample(decoder, frame, time_us)
        except TandemError as error:
            self._complain(error, self._order.next_offset, container_us)
            return
        self._complained, self._shown = False, True
        if packet is not None:
            self._frames.append(DecodedFrame(packet.position, time_us))
        if packet is not None and packet.start is not None:
            point = SyncPoint(packet.start.position, time_us)
            self._events.append(Start(point, packet.start.header))

    def _sample(self, decoder: Video, frame: Decoded, time_us: int) -> None:
        if self._sampler.wants(time_us):
            pixels = decoder.pixels(frame)
            self._check_shape(*pixels.shape[:2])
            self._events += self._sampler.take(time_us, pixels)
        self.decoded_us = max(self.decoded_us, time_us)

    def _complain(self, error: TandemError, position: int, container_us: int | None) -> None:
        if isinstance(error, DecoderLost):
            self._forget_decoder()  # the next one begins with the next key frame
        self._sampler.note(GapReason.UNDECODABLE, self._timer.relative_us(container_us))
        if not self._complained:
            self._complained = True
            self._events.append(Refusal(error, position))
