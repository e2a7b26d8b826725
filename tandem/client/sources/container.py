"""Shell: anything PyAV opens (file, pipe, camera, address) as pieces.

H.264 and H.265 are passed on as they are, in an MPEG transport stream; every other codec is decoded here and
sent as JPEG pictures, no more of them than the server watches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any, BinaryIO

from tandem.client.sources.base import Piece
from tandem.client.sources.extra import need
from tandem.client.sources.picture import jpeg
from tandem.client.sources.remux import TransportStream, with_times
from tandem.client.types import MediaKind, MediaOptions, Opened, PictureFormat
from tandem.core.errors import BadMedia, NotFound, PermissionRefused, TandemError, Unavailable
from tandem.core.timeline import MICROSECONDS, format_time

PASSED_ON = {"h264": MediaKind.H264_ANNEX_B, "hevc": MediaKind.H265_ANNEX_B}
DEFAULT_FPS = 25.0
MISSING_END_US = MICROSECONDS
"""A file that ends this much before its own header says is cut off; encoders are off by a frame or two."""


class ContainerSource:
    """One opened container with video."""

    def __init__(
        self,
        where: str | BinaryIO,
        *,
        name: str,
        fps: float = 0.0,
        live: bool = False,
        container_format: str | None = None,
        options: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.name, self.live = name, live
        self._container = _open(where, name, container_format, options or {}, timeout_s)
        self._stopped = False
        self._max_pixels = 0
        self._watched_fps = fps
        try:
            self._video = _first_video(self._container, name)
            self._told_us = self._told_length_us()
            codec = self._video.codec_context.name
            self._raw = codec in PASSED_ON and self._container.format.name in ("h264", "hevc")
            self.media = MediaOptions(
                kind=_packing(codec, raw=self._raw),
                sample_fps=fps,
                nominal_fps=self._nominal_fps if self._raw else 0.0,
            )
        except BaseException:
            self._container.close()
            raise

    @property
    def _nominal_fps(self) -> float:
        rate = self._video.guessed_rate or self._video.average_rate
        return float(rate) if rate else DEFAULT_FPS

    def adapt(self, opened: Opened) -> None:
        """Decode no more pictures, and no larger ones, than the server takes."""
        self._watched_fps = opened.sample_fps
        self._max_pixels = opened.limits.max_picture_pixels

    def pieces(self) -> Iterator[Piece]:
        """Read to the end; see `Source.pieces`."""
        errors = need("av.error")
        end_us = 0
        try:
            for piece in self._read():
                end_us = max(end_us, piece.pts_us)
                yield piece
                if self._stopped:
                    return
        except (errors.FFmpegError, OSError) as error:
            raise self._broken(error, end_us) from error
        finally:
            self._container.close()
        self._check_whole(end_us)

    def close(self) -> None:
        """Stop before the next packet."""
        self._stopped = True

    def _read(self) -> Iterator[Piece]:
        if self.media.kind is MediaKind.PICTURES:
            return self._pictures()
        return self._raw_packets() if self._raw else self._remuxed()

    def _remuxed(self) -> Iterator[Piece]:
        stream = TransportStream(self._video)
        origin_us = first_due_us = None
        last: Piece | None = None
        for packet in with_times(self._container.demux(self._video), self._nominal_fps):
            shown_us, due_us = _us(packet.pts, packet.time_base), _us(packet.dts, packet.time_base)
            if origin_us is None or first_due_us is None:
                origin_us, first_due_us = shown_us, due_us
            last = Piece(
                data=stream.add(packet),
                picture=None,
                pts_us=shown_us - origin_us,
                due_us=due_us - first_due_us,
                complete_us=due_us - origin_us,
                name=self.name,
            )
            yield last
        rest = stream.close()
        if rest and last:
            yield replace(last, data=rest)

    def _raw_packets(self) -> Iterator[Piece]:
        """A bare byte stream: no times but the ones that its frame rate gives."""
        number = 0
        for packet in self._container.demux(self._video):
            if packet.size:
                time_us = round(number * MICROSECONDS / self._nominal_fps)
                number += 1
                yield Piece(
                    data=bytes(packet),
                    picture=None,
                    pts_us=time_us,
                    due_us=time_us,
                    complete_us=time_us,
                    name=self.name,
                )

    def _pictures(self) -> Iterator[Piece]:
        origin_us = None
        last_slot = -1
        for number, frame in enumerate(self._container.decode(self._video)):
            if frame.pts is None:
                time_us = round(number * MICROSECONDS / self._nominal_fps)
            else:
                time_us = _us(frame.pts, frame.time_base)
            origin_us = time_us if origin_us is None else origin_us
            time_us -= origin_us
            slot = self._slot(time_us, number)
            if slot > last_slot:
                last_slot = slot
                yield Piece(
                    data=jpeg(frame.to_image(), self._max_pixels),
                    picture=PictureFormat.JPEG,
                    pts_us=time_us,
                    due_us=time_us,
                    complete_us=time_us,
                    name=self.name,
                )

    def _slot(self, time_us: int, number: int) -> int:
        """Which 1 / fps interval a frame is in; the server watches the first frame of each."""
        if not self._watched_fps:
            return number
        # A sixteenth of an interval early counts as in time, as frame times are rounded.
        return int((time_us / MICROSECONDS * self._watched_fps) + 1 / 16)

    def _check_whole(self, end_us: int) -> None:
        if not self._stopped and self._told_us - end_us > MISSING_END_US + self._interval_us:
            raise BadMedia(
                f"{self.name} ends at {format_time(end_us)} of {format_time(self._told_us)}: "
                "the file is cut off; what it has was sent"
            )

    def _told_length_us(self) -> int:
        """How long the header says that the video is; 0 where it says nothing worth believing."""
        if self.live or self._container.format.name in ("h264", "hevc", "mpegts"):
            return 0
        told = self._video.duration
        return _us(told, self._video.time_base) if told else int(self._container.duration or 0)

    @property
    def _interval_us(self) -> int:
        """Time between the pictures that are sent; 0 where all are."""
        thinned = self.media.kind is MediaKind.PICTURES and self._watched_fps
        return round(MICROSECONDS / self._watched_fps) if thinned else 0

    def _broken(self, error: BaseException, end_us: int) -> TandemError:
        after = f"after {format_time(end_us)}"
        if self.live:
            return Unavailable(f"{self.name} stopped {after} ({_reason(error)})")
        return BadMedia(f"{self.name} is broken {after} ({_reason(error)}); what came before was sent")


def _open(
    where: str | BinaryIO,
    name: str,
    container_format: str | None,
    options: dict[str, str],
    timeout_s: float | None,
) -> Any:
    av = need("av")
    try:
        return av.open(where, format=container_format, options=options, timeout=timeout_s)
    except FileNotFoundError as error:
        raise NotFound(f"no such file or device: {name}") from error
    except PermissionError as error:
        raise PermissionRefused(f"{name} may not be read: check its permissions") from error
    except av.error.InvalidDataError as error:
        raise BadMedia(
            f"{name} cannot be read as video: unknown format, or cut off before its index"
        ) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise Unavailable(f"{name} cannot be opened ({_reason(error)})") from error


def _first_video(container: Any, name: str) -> Any:
    if not container.streams.video:
        raise BadMedia(f"{name} has no video in it")
    video = container.streams.video[0]
    if video.codec_context is None:
        raise BadMedia(f"{name}: its video codec is not known to this build of FFmpeg")
    return video


def _packing(codec: str, *, raw: bool) -> MediaKind:
    if codec not in PASSED_ON:
        return MediaKind.PICTURES
    return PASSED_ON[codec] if raw else MediaKind.MPEG_TS


def _us(time: int, base: Fraction) -> int:
    return round(time * base * MICROSECONDS)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
