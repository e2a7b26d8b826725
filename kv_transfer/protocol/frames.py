"""Pure. The 64-byte header in front of every wire frame, and how bytes of blocks are cut into frames.

Both ends compute the same frames from the same grant, so a receiver knows every header in advance and
compares. Payload bytes are covered by the blocks' own layer checksums, the header by its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import xxhash

from tandem.core.blocks import BlockHeader
from tandem.core.errors import DataLost
from tandem.core.transfer import BlockGrant, FrameClass, LaneKind
from tandem.core.versions import Spoken, unread

MAGIC = b"TKWF"
VERSION = 1
HEADER_BYTES = 64
COMMIT = 1
"""Flag of a transfer's last frame: the sender is done, and stands by the digests of its offer."""

LARGEST_CLASS = {
    LaneKind.SHM: FrameClass.M,
    LaneKind.GLOO: FrameClass.L,
    LaneKind.LOOPBACK: FrameClass.M,
    LaneKind.NCCL: FrameClass.L,
}
"""Largest frames of a lane kind. The shared-memory ring has slots of 1 MiB."""

# magic, version, class, flags, epoch, lane epoch, transfer, attempt, seq, offset, valid, block, reserved
_BODY = struct.Struct("<4sBBHIIQIIQIIQ")
_CHECKSUM = struct.Struct("<Q")
assert _BODY.size + _CHECKSUM.size == HEADER_BYTES


class FrameRefused(DataLost):
    """A frame that is damaged, stale, or not the one whose turn it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameHeader:
    """What a frame says of itself."""

    frame_class: FrameClass
    flags: int
    epoch: int
    """The pair's epoch."""
    lane_epoch: int
    transfer_id: int
    attempt: int
    seq: int
    """Counts frames of the attempt from 0."""
    offset: int
    """Bytes of the attempt before this frame."""
    valid_bytes: int
    """Payload bytes that count; the rest of the frame is padding."""
    block: int
    """Index, in the offer, of the block that the first byte belongs to."""


def encode_frame_header(header: FrameHeader) -> bytes:
    """The header as 64 bytes."""
    return _encode(
        header.frame_class,
        header.flags,
        header.epoch,
        header.lane_epoch,
        header.transfer_id,
        header.attempt,
        header.seq,
        header.offset,
        header.valid_bytes,
        header.block,
    )


def _encode(*fields: int) -> bytes:
    body = _BODY.pack(MAGIC, VERSION, *fields, 0)
    return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def decode_frame_header(data: bytes) -> FrameHeader:
    """The header in 64 bytes. Raises FrameRefused when damaged or of another version."""
    if len(data) != HEADER_BYTES:
        raise FrameRefused(f"a frame header of {len(data)} bytes")
    body = data[: _BODY.size]
    if _CHECKSUM.unpack_from(data, _BODY.size)[0] != xxhash.xxh3_64_intdigest(body):
        raise FrameRefused("a frame header whose checksum does not match")
    magic, version, size, flags, epoch, lane_epoch, *rest, reserved = _BODY.unpack(body)
    if magic == MAGIC and version != VERSION:
        raise FrameRefused(unread("a frame", version, Spoken(VERSION, VERSION)))
    if magic != MAGIC or reserved or size not in FrameClass.__members__.values():
        raise FrameRefused(f"not a frame header: {data[:8].hex()}")
    transfer_id, attempt, seq, offset, valid_bytes, block = rest
    frame_class = FrameClass(size)
    if not 0 < valid_bytes <= frame_class.size_bytes:
        raise FrameRefused(f"{valid_bytes} valid bytes in a frame of {frame_class.size_bytes}")
    return FrameHeader(
        frame_class=frame_class,
        flags=flags,
        epoch=epoch,
        lane_epoch=lane_epoch,
        transfer_id=transfer_id,
        attempt=attempt,
        seq=seq,
        offset=offset,
        valid_bytes=valid_bytes,
        block=block,
    )


def check_frame_header(received: bytes, expected: bytes) -> None:
    """Raise FrameRefused, saying how, unless the header received is the one expected."""
    if received == expected:
        return
    got, want = decode_frame_header(received), decode_frame_header(expected)
    if (got.epoch, got.lane_epoch) != (want.epoch, want.lane_epoch):
        raise FrameRefused(
            f"a stale frame of epoch {got.epoch}.{got.lane_epoch}, now is {want.epoch}.{want.lane_epoch}"
        )
    raise FrameRefused(
        f"frame {got.seq} of transfer {got.transfer_id}.{got.attempt} ({got.valid_bytes} bytes at "
        f"{got.offset}) where frame {want.seq} of {want.transfer_id}.{want.attempt} "
        f"({want.valid_bytes} bytes at {want.offset}) was due"
    )


class Span(NamedTuple):
    """Bytes ``[start, end)`` of one block's payload."""

    block: int
    start: int
    end: int


class Frame(NamedTuple):
    """One frame of an attempt: `spans` in order, then padding up to the size of its class."""

    seq: int
    frame_class: FrameClass
    offset: int
    valid_bytes: int
    spans: tuple[Span, ...]
    last: bool


_BODIES = ((FrameClass.L, 16 << 20), (FrameClass.M, 2 << 20), (FrameClass.H, 0))
"""Class of a transfer's body, and the bytes from which on it is used.

Verifying a frame is hidden by the frames that arrive meanwhile, so one alone is too few; and a thread that
wakes for every frame takes the core from those that copy, so more than a lane has under way are too many.
The body is one H frame up to 512 KiB (one or two S up to 128 KiB), one to four H below 2 MiB, two to eight M
up to 8 MiB, eight to sixteen M below 16 MiB, two to eight L from there to 64 MiB; where L frames do not
travel, one M a MiB. What is left over takes up to eight M behind L frames, and up to four S at the end.
"""
_SIZES = {size: size.size_bytes for size in FrameClass}
"""Properties of enums are slow, and this is asked for every frame."""


def choose_class(total_bytes: int, largest: FrameClass) -> FrameClass:
    """The class for a transfer's body, at most `largest`."""
    body = next(size for size, least_bytes in _BODIES if total_bytes >= least_bytes)
    return _fitting(total_bytes, min(body, largest))


def _fitting(left_bytes: int, body: FrameClass) -> FrameClass:
    """The next frame's class: 8 MiB only when they are filled, others when more than a quarter is."""
    if body is FrameClass.L:
        if left_bytes >= _SIZES[body]:
            return body
        body = FrameClass.M
    return body if left_bytes > _SIZES[body] // 4 else FrameClass.S


def plan_frames(
    headers: Sequence[BlockHeader], grants: Sequence[BlockGrant], frame_class: FrameClass
) -> list[Frame]:
    """Cut the granted layers, one after the other, into frames.

    The body goes in frames of `frame_class`, the tail in smaller ones, so that padding never exceeds three
    quarters of a MiB.
    """
    frames: list[Frame] = []
    spans = list(_granted_spans(headers, grants))
    left = sum(end - start for _, start, end in spans)
    offset = 0
    spans.reverse()
    while left:
        size = _fitting(left, frame_class)
        valid = min(left, _SIZES[size])
        left -= valid
        frames.append(Frame(len(frames), size, offset, valid, _cut(spans, valid), not left))
        offset += valid
    return frames


def frame_header(frame: Frame, epoch: int, lane_epoch: int, transfer_id: int, attempt: int) -> bytes:
    """The encoded header of a planned frame."""
    seq, frame_class, offset, valid_bytes, spans, last = frame
    flags, block = COMMIT if last else 0, spans[0].block
    return _encode(
        frame_class, flags, epoch, lane_epoch, transfer_id, attempt, seq, offset, valid_bytes, block
    )


def _granted_spans(headers: Sequence[BlockHeader], grants: Sequence[BlockGrant]) -> Iterator[Span]:
    """The granted bytes in order; layers that lie next to each other are one span."""
    for grant in grants:
        header = headers[grant.index]
        size_bytes = header.layer_bytes
        first = after = grant.layers[0]
        for layer in grant.layers:
            if layer != after:
                yield Span(grant.index, first * size_bytes, after * size_bytes)
                first = layer
            after = layer + 1
        yield Span(grant.index, first * size_bytes, after * size_bytes)


def _cut(reversed_spans: list[Span], count: int) -> tuple[Span, ...]:
    """Take `count` bytes off the first spans, which are the last of the list."""
    taken: list[Span] = []
    while count:
        block, start, end = reversed_spans.pop()
        cut = min(end, start + count)
        taken.append(Span(block, start, cut))
        count -= cut - start
        if cut < end:
            reversed_spans.append(Span(block, cut, end))
    return tuple(taken)
