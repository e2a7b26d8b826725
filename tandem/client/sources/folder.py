"""Shell: a directory of pictures, in the order of their names, one every 1 / fps seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tandem.client.sources.base import Piece
from tandem.client.sources.picture import reencode
from tandem.client.types import MediaKind, MediaOptions, Opened, PictureFormat
from tandem.core.errors import NotFound
from tandem.core.timeline import MICROSECONDS

DEFAULT_FPS = 1.0
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
_MAGIC = ((b"\xff\xd8\xff", PictureFormat.JPEG), (b"\x89PNG\r\n\x1a\n", PictureFormat.PNG))


class FolderSource:
    """The pictures of one directory. JPEG and PNG files are sent as they are."""

    def __init__(self, folder: Path, fps: float = 0.0) -> None:
        self.name = str(folder)
        self.live = False
        self._fps = fps or DEFAULT_FPS
        self.media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=fps)
        self._files = sorted(
            (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES), key=_natural_order
        )
        self._stopped = False
        if not self._files:
            raise NotFound(f"no pictures in {folder} (looked for {' '.join(sorted(SUFFIXES))})")

    def adapt(self, opened: Opened) -> None:
        """Nothing to learn: files are sent as they are."""

    def pieces(self) -> Iterator[Piece]:
        """The pictures; what is none is sent as it is, for the server to refuse by its position."""
        for number, path in enumerate(self._files):
            if self._stopped:
                return
            time_us = round(number * MICROSECONDS / self._fps)
            data, picture_format = _read(path)
            yield Piece(
                data=data,
                picture=picture_format,
                pts_us=time_us,
                due_us=time_us,
                complete_us=time_us,
                name=str(path),
            )

    def close(self) -> None:
        """Stop before the next picture."""
        self._stopped = True


def _read(path: Path) -> tuple[bytes, PictureFormat]:
    data = path.read_bytes()
    for magic, picture_format in _MAGIC:
        if data.startswith(magic):
            return data, picture_format
    return reencode(data), PictureFormat.JPEG


def _natural_order(path: Path) -> list[tuple[int, int, str]]:
    """Key under which ``frame9`` comes before ``frame10``."""
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
