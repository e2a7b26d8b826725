"""Shell: finds out what a source's name means. Blocks; call it from a thread."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import BinaryIO, cast

from tandem.client.sources.base import Source
from tandem.client.sources.container import ContainerSource
from tandem.client.sources.folder import FolderSource
from tandem.core.errors import InvalidInput, NotFound

NETWORK_TIMEOUT_S = 10.0
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]*://")
_CAMERA = re.compile(r"(/dev/video\d+)|webcam")
_LIVE_OPTIONS = {"analyzeduration": "1000000"}  # one second, not five: what is analysed arrives late
_RTSP_OPTIONS = {"rtsp_transport": "tcp"}  # lost UDP packets would be holes in the picture


class _Pipe:
    """A file that can only be read: PyAV must not try to seek in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """At most `size` bytes; empty at the end."""
        return self._file.read(size)


def open_source(where: str, *, fps: float = 0.0) -> Source:
    """The source that `where` names.

    A video file, a directory of pictures, ``-`` (standard input), ``/dev/videoN`` or ``webcam``, or an
    address such as ``rtsp://camera/stream``. `fps` is how many frames a second shall be watched (0: the
    model's own rate); pictures of a directory are that far apart.
    """
    if fps < 0:
        raise InvalidInput(f"frames per second cannot be {fps}")
    if where == "-":
        pipe = cast("BinaryIO", _Pipe(sys.stdin.buffer))
        return ContainerSource(pipe, name="standard input", fps=fps)
    if _URL.match(where):
        return _address(where, fps)
    if _CAMERA.fullmatch(where):
        device = "/dev/video0" if where == "webcam" else where
        return ContainerSource(device, name=device, fps=fps, live=True, container_format="v4l2")
    path = Path(where)
    if path.is_dir():
        return FolderSource(path, fps)
    if not path.exists():
        raise NotFound(f"no such file, directory, camera or address: {where}")
    return ContainerSource(str(path), name=str(path), fps=fps)


def _address(url: str, fps: float) -> ContainerSource:
    rtsp = url.lower().startswith(("rtsp://", "rtsps://"))
    stored = url.lower().startswith(("http://", "https://", "file://"))
    return ContainerSource(
        url,
        name=_without_password(url),
        fps=fps,
        live=not stored,
        options={} if stored else _LIVE_OPTIONS | (_RTSP_OPTIONS if rtsp else {}),
        timeout_s=NETWORK_TIMEOUT_S,
    )


def _without_password(url: str) -> str:
    """The address as it may be shown and logged: a password may hold ``@`` and ``/``, a query another one."""
    return re.sub(r"(?<=//)[^?]*@|\?.*", "", url)
