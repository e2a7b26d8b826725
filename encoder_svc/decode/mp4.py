"""Pure. Fragmented MP4: boxes cut anywhere, samples given as soon as their last byte is here.

Knows no codec: what the sample description says is handed on (`encoder_svc.decode.mp4_header`). The layout is
ISO/IEC 14496-12: ``ftyp moov (moof mdat)*``; a fragment's ``moof`` says where in the stream its samples lie::

    position   begin of buffer      samples of the video track, in file order
               |....|sample|other track|sample|........
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.mp4_header import CodecOf, Fragment, Track, parse_moof, parse_moov
from encoder_svc.decode.packets import CodecSetup, Damage, Demuxed, EncodedPacket, StartPoint
from encoder_svc.decode.splitting import codec_of_mp4
from tandem.core.errors import BadMedia

_KNOWN = frozenset(
    {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"ssix", b"prft", b"emsg", b"free", b"skip"}
    | {b"mfra", b"uuid", b"meta", b"udta", b"wide", b"pdin"}
)
_OPEN_END = 1 << 62
"""A box of size 0 reaches to the end of the stream, wherever that is."""
_HELD = frozenset({b"ftyp", b"moov", b"moof"})


@dataclass(frozen=True, slots=True)
class _Sample:
    position: int
    size_bytes: int
    time_us: int
    key: bool
    start: StartPoint | None


class Mp4Demuxer:
    """Packets of the first video track.

    Args:
        position: byte offset of the first byte that will be fed.
        header: init segment from a `StartPoint`, when the stream is taken up there.
        codec_of: asks FFmpeg, wherever that is.
    """

    def __init__(
        self,
        limits: MediaLimits,
        *,
        position: int = 0,
        header: bytes = b"",
        codec_of: CodecOf = codec_of_mp4,
    ) -> None:
        self._codec_of = codec_of
        self._limits = limits
        self._buffer = bytearray()
        self._begin = position
        self._skip_to = position
        self._samples: deque[_Sample] = deque()
        self._ftyp = b""
        self._init = b""
        self._track: Track | None = None
        self._next_dts = 0
        self._searching = False
        if header:
            self._take_header(header)

    @property
    def setup(self) -> CodecSetup | None:
        """What the decoder needs, once the init segment is complete."""
        return self._track.setup if self._track else None

    @property
    def unfinished(self) -> int:
        """See `Demuxer`."""
        return self._begin

    def feed(self, data: bytes) -> list[Demuxed]:
        """Take the next bytes and return the samples that became complete."""
        self._buffer += data
        out: list[Demuxed] = []
        while self._step(out):
            pass
        return out

    def finish(self) -> list[Demuxed]:
        """Damage when the stream ends inside a box or before a sample."""
        if self._samples or self._buffer or self._begin < self._skip_to < _OPEN_END:
            lost = f"the stream ends inside a fragment, {len(self._samples)} frames short"
            return [Damage(BadMedia(lost), self._begin)]
        return []

    def jump(self, position: int) -> None:
        """Go on at `position`, after bytes that never came."""
        self._buffer.clear()
        self._samples.clear()
        self._begin = self._skip_to = position
        self._searching = True

    def _step(self, out: list[Demuxed]) -> bool:
        """Do one thing that the buffer allows; False when more bytes are needed."""
        if self._samples and self._samples[0].position < self._skip_to:
            return self._give_sample(out)
        if self._skip_to > self._begin:
            self._drop(min(self._skip_to, self._begin + len(self._buffer)))
            return bool(self._buffer)
        if self._searching and not self._search():
            return False
        return self._take_box(out)

    def _give_sample(self, out: list[Demuxed]) -> bool:
        sample = self._samples[0]
        if sample.position > self._begin:
            self._drop(min(sample.position, self._begin + len(self._buffer)))
        if sample.position > self._begin or len(self._buffer) < sample.size_bytes:
            return False
        self._samples.popleft()
        if sample.position < self._begin:
            out.append(Damage(BadMedia("a sample lies before its fragment"), sample.position))
            return True
        data = bytes(self._buffer[: sample.size_bytes])
        self._drop(sample.position + sample.size_bytes)
        out.append(
            EncodedPacket(
                data=data,
                time_us=sample.time_us,
                key=sample.key,
                position=sample.position,
                start=sample.start,
            )
        )
        return True

    def _take_box(self, out: list[Demuxed]) -> bool:
        if len(self._buffer) < 8:
            return False
        size, kind = struct.unpack_from(">I4s", self._buffer)
        head = 8
        if size == 1:
            if len(self._buffer) < 16:
                return False
            size, head = struct.unpack_from(">Q", self._buffer, 8)[0], 16
        if kind not in _KNOWN or 0 < size < head or size > 1 << 50:
            self._lose(out, f"no MP4 box at byte {self._begin}")
            return True
        if kind not in _HELD:
            self._skip_to = self._begin + size if size else _OPEN_END
            return True
        if size == 0 or size > self._limits.max_unit_bytes:
            raise BadMedia(f"a {kind.decode()} box of {size} bytes is not taken")
        if len(self._buffer) < size:
            return False
        self._use_box(kind, bytes(self._buffer[:size]), head, out)
        self._drop(self._begin + size)
        self._skip_to = self._begin
        return True

    def _use_box(self, kind: bytes, box: bytes, head: int, out: list[Demuxed]) -> None:
        if kind == b"ftyp":
            self._ftyp = box
        elif kind == b"moov":
            self._take_header(self._ftyp + box)
        elif self._track is None:
            raise BadMedia("a fragment comes before the moov box: send the stream from its start")
        else:
            try:
                self._take_fragment(parse_moof(box, head, self._track, self._begin, self._next_dts))
            except BadMedia as error:
                out.append(Damage(error, self._begin))

    def _take_header(self, header: bytes) -> None:
        self._init = header
        self._track = parse_moov(header, self._codec_of)

    def _take_fragment(self, fragment: Fragment) -> None:
        assert self._track is not None
        self._next_dts = fragment.next_dts
        scale = self._track.timescale
        for index, sample in enumerate(fragment.samples):
            if sample.size_bytes > self._limits.max_unit_bytes:
                raise BadMedia(f"a frame of {sample.size_bytes} bytes is not taken")
            starts = sample.key and index == 0
            self._samples.append(
                _Sample(
                    position=sample.position,
                    size_bytes=sample.size_bytes,
                    time_us=(sample.pts * 2_000_000 + scale) // (2 * scale),
                    key=sample.key,
                    start=StartPoint(position=self._begin, header=self._init) if starts else None,
                )
            )

    def _lose(self, out: list[Demuxed], why: str) -> None:
        if self._track is None:
            raise BadMedia(f"{why}: this is not a fragmented MP4 stream from its start")
        out.append(Damage(BadMedia(why), self._begin))
        self._samples.clear()
        self._drop(self._begin + 1)
        self._skip_to = self._begin
        self._searching = True

    def _search(self) -> bool:
        """After damage: the next fragment begins four bytes before its name."""
        found = self._buffer.find(b"moof", 4)
        keep = found - 4 if found >= 0 else max(len(self._buffer) - 7, 0)
        self._drop(self._begin + keep)
        self._skip_to = self._begin
        self._searching = found < 0
        return found >= 0

    def _drop(self, until: int) -> None:
        del self._buffer[: until - self._begin]
        self._begin = until
