"""Pure but for one call: boxes of an MP4's ``moov`` and ``moof``, as far as frames need them.

FFmpeg reads the sample description (codec and extradata) from the init segment; all else is read here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from encoder_svc.decode.packets import CodecSetup
from tandem.core.errors import BadMedia

MAX_SAMPLES = 100_000
"""Most frames of one fragment: more than half an hour at 50 frames a second."""
_NOT_SYNC = 0x10000
_ROTATIONS = {(0, 1, -1, 0): 270, (-1, 0, 0, -1): 180, (0, -1, 1, 0): 90}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a sample has when its run does not say."""

    duration: int = 0
    size_bytes: int = 0
    flags: int = 0


@dataclass(frozen=True, slots=True)
class Track:
    """The video track."""

    number: int
    timescale: int
    defaults: Defaults
    setup: CodecSetup


@dataclass(frozen=True, slots=True)
class Sample:
    """One frame of a fragment."""

    position: int
    size_bytes: int
    pts: int
    key: bool


@dataclass(frozen=True, slots=True)
class Fragment:
    """The video samples of one ``moof``."""

    samples: tuple[Sample, ...]
    next_dts: int


CodecOf = Callable[[bytes], tuple[str, bytes]]


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, body start, end) of the boxes in ``data[start:end]``. Raises BadMedia for a bad length."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1 and start + 16 <= end:
            size, head = struct.unpack_from(">Q", data, start + 8)[0], 16
        size = size or end - start
        if size < head or start + size > end:
            raise BadMedia(f"box {kind!r} has a wrong length")
        yield kind, start + head, start + size
        start += size


def parse_moov(init: bytes, codec_of: CodecOf) -> Track:
    """The video track of an init segment. Raises BadMedia when there is none that can be used.

    `codec_of` says which codec it has, and what its decoder is set up with.
    """
    try:
        number, timescale, rotation, defaults = _read_moov(init)
    except (struct.error, IndexError) as error:
        raise BadMedia("the moov box is damaged") from error
    codec, extradata = codec_of(init)
    return Track(number, timescale, defaults, CodecSetup(codec, extradata, rotation))


def _read_moov(init: bytes) -> tuple[int, int, int, Defaults]:
    moov = next(((b, e) for kind, b, e in boxes(init, 0, len(init)) if kind == b"moov"), None)
    if moov is None:
        raise BadMedia("the init segment has no moov box")
    defaults: dict[int, Defaults] = {}
    fragmented = False
    video: tuple[int, int, int] | None = None
    for kind, begin, end in boxes(init, *moov):
        if kind == b"trak" and video is None:
            video = _read_track(init, begin, end)
        elif kind == b"mvex":
            fragmented = True
            defaults = dict(_read_trex(init, begin, end))
    if not fragmented:
        raise BadMedia(
            "the MP4 is not fragmented; remux it, for example: "
            "ffmpeg -i in.mp4 -c copy -movflags frag_keyframe+empty_moov out.mp4"
        )
    if video is None:
        raise BadMedia("the MP4 has no video track")
    number, timescale, rotation = video
    return number, timescale, rotation, defaults.get(number, Defaults())


def _read_track(data: bytes, begin: int, end: int) -> tuple[int, int, int] | None:
    """(number, timescale, rotation) of a video track, None for others."""
    number = timescale = rotation = 0
    handler = b""
    for kind, at, stop in boxes(data, begin, end):
        if kind == b"tkhd":
            long = data[at] == 1
            number = struct.unpack_from(">I", data, at + (20 if long else 12))[0]
            matrix = struct.unpack_from(">9i", data, at + (52 if long else 40))
            sign = tuple((v > 0) - (v < 0) for v in (matrix[0], matrix[1], matrix[3], matrix[4]))
            rotation = _ROTATIONS.get((sign[0], sign[1], sign[2], sign[3]), 0)
        elif kind == b"mdia":
            for inner, i_at, _ in boxes(data, at, stop):
                if inner == b"mdhd":
                    timescale = struct.unpack_from(">I", data, i_at + (20 if data[i_at] == 1 else 12))[0]
                elif inner == b"hdlr":
                    handler = data[i_at + 8 : i_at + 12]
    if handler != b"vide":
        return None
    if timescale == 0:
        raise BadMedia("the video track has no time scale")
    return number, timescale, rotation


def _read_trex(data: bytes, begin: int, end: int) -> Iterator[tuple[int, Defaults]]:
    for kind, at, _ in boxes(data, begin, end):
        if kind == b"trex":
            number, _, duration, size, flags = struct.unpack_from(">5I", data, at + 4)
            yield number, Defaults(duration, size, flags)


def parse_moof(box: bytes, head: int, track: Track, position: int, next_dts: int) -> Fragment:
    """Samples of the track in a ``moof`` box that lies at byte `position` of the stream.

    `next_dts` is where the fragment before ended, for streams without ``tfdt``. Raises BadMedia.
    """
    samples: list[Sample] = []
    try:
        for kind, begin, end in boxes(box, head, len(box)):
            if kind == b"traf":
                next_dts = _read_traf(box, begin, end, track, position, next_dts, samples)
    except (struct.error, IndexError) as error:
        raise BadMedia("a moof box is damaged") from error
    samples.sort(key=lambda sample: sample.position)
    return Fragment(tuple(samples), next_dts)


def _read_traf(
    box: bytes, begin: int, end: int, track: Track, position: int, dts: int, samples: list[Sample]
) -> int:
    base, defaults = position, track.defaults
    data_at = position
    for kind, at, _ in boxes(box, begin, end):
        flags = struct.unpack_from(">I", box, at)[0] & 0xFFFFFF
        if kind == b"tfhd":
            if struct.unpack_from(">I", box, at + 4)[0] != track.number:
                return dts
            base, defaults = _read_tfhd(box, at, flags, position, track.defaults)
            data_at = base
        elif kind == b"tfdt":
            dts = struct.unpack_from(">Q" if box[at] == 1 else ">I", box, at + 4)[0]
        elif kind == b"trun":
            dts, data_at = _read_trun(box, at, flags, base, data_at, dts, defaults, samples)
    return dts


def _read_tfhd(box: bytes, at: int, flags: int, position: int, track: Defaults) -> tuple[int, Defaults]:
    cursor = _Cursor(box, at + 8)
    base = cursor.u64() if flags & 0x1 else position
    if flags & 0x2:
        cursor.u32()
    duration = cursor.u32() if flags & 0x8 else track.duration
    size = cursor.u32() if flags & 0x10 else track.size_bytes
    sample_flags = cursor.u32() if flags & 0x20 else track.flags
    return base, Defaults(duration, size, sample_flags)


def _read_trun(
    box: bytes, at: int, flags: int, base: int, data_at: int, dts: int, defaults: Defaults, out: list[Sample]
) -> tuple[int, int]:
    cursor = _Cursor(box, at + 4)
    count = cursor.u32()
    if count + len(out) > MAX_SAMPLES:
        raise BadMedia(f"a fragment claims {count} frames (at most {MAX_SAMPLES})")
    if flags & 0x1:
        data_at = base + cursor.i32()
    first_flags = cursor.u32() if flags & 0x4 else None
    for index in range(count):
        duration = cursor.u32() if flags & 0x100 else defaults.duration
        size = cursor.u32() if flags & 0x200 else defaults.size_bytes
        own = cursor.u32() if flags & 0x400 else defaults.flags
        if index == 0 and first_flags is not None:
            own = first_flags
        shift = cursor.i32() if flags & 0x800 else 0
        out.append(Sample(data_at, size, dts + shift, not own & _NOT_SYNC))
        data_at += size
        dts += duration
    return dts, data_at


class _Cursor:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def _take(self, code: str, size: int) -> int:
        value: int = struct.unpack_from(code, self._data, self._at)[0]
        self._at += size
        return value

    def u32(self) -> int:
        return self._take(">I", 4)

    def i32(self) -> int:
        return self._take(">i", 4)

    def u64(self) -> int:
        return self._take(">Q", 8)
