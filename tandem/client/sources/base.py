"""Pure: what a source of video is to the client. Knows no codec; importing it needs no extra."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from tandem.client.types import MediaOptions, Opened, PictureFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One picture or a run of bytes, with its times in microseconds from the source's first frame."""

    data: bytes
    picture: PictureFormat | None
    """Set for pictures, None for bytes of an encoded stream."""
    pts_us: int
    """Latest presentation time in it."""
    due_us: int
    """When a live camera would have sent it (its decoding time): what the pace goes by."""
    complete_us: int
    """Every frame before this time lies in the pieces before this one. Frames of a coded stream are not
    sent in the order in which they are shown."""
    name: str = ""
    """Where it came from, for messages about it."""


class Source(Protocol):
    """A video that can be read once, from its start to its end."""

    name: str
    media: MediaOptions
    live: bool
    """True when it comes at its own pace (a camera) and must not be paced again."""

    def adapt(self, opened: Opened) -> None:
        """Learn what the server watches, before the first piece: no more need be decoded than that."""

    def pieces(self) -> Iterator[Piece]:
        """Read it. Blocks; runs in a thread of its own.

        Raises:
            BadMedia: it is broken or cut off; everything that could be read came before.
            Unavailable: a camera or address stopped to answer.
        """

    def close(self) -> None:
        """Give back what it holds. Called after `pieces` has stopped, or from another thread to stop it."""
