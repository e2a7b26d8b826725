"""Pure. Many small reads as few large ones: neighbours in a file within a gap are read together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tandem.core.ids import StreamId


class Piece(NamedTuple):
    """Bytes somebody wants: ordered by place."""

    stream: StreamId
    file: int
    start: int
    length: int
    want: int
    """Which of the wants it is."""


def coalesce(pieces: Iterable[Piece], gap_bytes: int, max_bytes: int, max_pieces: int) -> list[list[Piece]]:
    """Runs of pieces, each to be read at once. Pieces that overlap come into different runs."""
    runs: list[list[Piece]] = []
    start = end = 0
    for piece in sorted(pieces):
        last = runs[-1][-1] if runs else None
        if (
            last is not None
            and (last.stream, last.file) == (piece.stream, piece.file)
            and end <= piece.start <= end + gap_bytes
            and piece.start + piece.length - start <= max_bytes
            and len(runs[-1]) < max_pieces
        ):
            runs[-1].append(piece)
        else:
            runs.append([piece])
            start = piece.start
        end = piece.start + piece.length
    return runs
