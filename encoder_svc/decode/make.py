"""Shell. The right source for a kind of media, fresh or taken up from a resume header."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from encoder_svc.admit import CheckShape, MediaLimits
from encoder_svc.decode.annexb import AnnexBDemuxer
from encoder_svc.decode.decoders import INSIDE, Decoders
from encoder_svc.decode.encoded_source import EncodedSource
from encoder_svc.decode.mp4 import Mp4Demuxer
from encoder_svc.decode.packets import Demuxer
from encoder_svc.decode.picture_source import PictureSource
from encoder_svc.decode.pictures import Rgb
from encoder_svc.decode.source import Source
from encoder_svc.decode.timing import ContainerTimer, CountingTimer, FrameTimer
from encoder_svc.decode.ts import TsDemuxer
from encoder_svc.resume import ResumeHeader
from encoder_svc.sample import Sampler

DEFAULT_NOMINAL_FPS = 25.0


class MediaKind(StrEnum):
    """How a stream's media is packed."""

    PICTURES = "pictures"
    H264_ANNEX_B = "h264"
    H265_ANNEX_B = "hevc"
    FRAGMENTED_MP4 = "mp4"
    MPEG_TS = "ts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """Where a stream's media begins."""

    position: int = 0
    """Sequence or byte offset of the first item."""
    header: ResumeHeader | None = None
    """Set when the media is taken up in the middle."""
    begins_us: int = 0
    """Stream time of the first frame, where there is no header."""


def make_source(
    kind: MediaKind,
    sampler: Sampler[Rgb],
    beginning: Beginning,
    nominal_fps: float,
    limits: MediaLimits,
    check_shape: CheckShape,
    decoders: Decoders = INSIDE,
) -> Source:
    """A source of this kind. Raises BadMedia when the header cannot be used."""
    if kind is MediaKind.PICTURES:
        return PictureSource(sampler, limits, check_shape, position=beginning.position, decoders=decoders)
    demuxer = _make_demuxer(kind, limits, beginning, decoders)
    timer = _make_timer(kind, beginning, nominal_fps or DEFAULT_NOMINAL_FPS)
    if beginning.header and beginning.position > beginning.header.point.position:
        timer.jump(sampler.covered_us or 0)
    return EncodedSource(
        demuxer, timer, sampler, limits, check_shape, position=beginning.position, decoders=decoders
    )


def _make_demuxer(kind: MediaKind, limits: MediaLimits, beginning: Beginning, decoders: Decoders) -> Demuxer:
    position, resume = beginning.position, beginning.header
    start = resume.start_header if resume else b""
    if kind is MediaKind.FRAGMENTED_MP4:
        return Mp4Demuxer(limits, position=position, header=start, codec_of=decoders.codec_of_mp4)
    if kind is MediaKind.MPEG_TS:
        near_us = resume.origin_us + resume.point.time_us if resume else None
        return TsDemuxer(limits, position=position, header=start, near_us=near_us)
    splitter = decoders.splitter(kind.value)
    return AnnexBDemuxer(kind.value, limits, position=position, header=start, splitter=splitter)


def _make_timer(kind: MediaKind, beginning: Beginning, nominal_fps: float) -> FrameTimer:
    resume, begins_us = beginning.header, beginning.begins_us
    if kind in {MediaKind.FRAGMENTED_MP4, MediaKind.MPEG_TS}:
        return ContainerTimer(resume.origin_us if resume else None, begins_us)
    return CountingTimer(nominal_fps, resume.point.time_us if resume else begins_us)
