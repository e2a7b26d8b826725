# ruff: noqa: N803 (shape suffixes)
"""Pure. What stays in RAM of every visual block of one stream, wherever the block's bytes lie.

Retrieval scores blocks without reading them: a block is represented by the mean of its raw keys (ReKV, arXiv
2503.00540, section 3.2), per layer and key/value head, and optionally by an embedding of its picture. Shapes:
L layers, H key/value heads, T tokens, D head dimension, F = H x D, E dimension of embeddings.

::

    chunk 0 [numbers, times, tokens, keys_LFC, ...]   full, never changes
    chunk 1 [.....................|               ]   rows are written behind the last one, then published

Memory grows by whole chunks and nothing is ever moved, so a snapshot is a list of chunks and row counts. Each
chunk is as large as all before it, up to a bound: few long chunks are scored faster than many short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.retrieve.index_view import Chunk, IndexView, Piece, unit_length
from tandem.core.errors import InvalidInput
from tandem.core.timeline import TimeRange

MIN_CHUNK_ROWS, MAX_CHUNK_ROWS = 64, 8192
"""Chunks double: the first is small, because with columns of rows its pages are all touched at once."""
MAX_CHUNK_BYTES = 20 * 1024 * 1024
"""Of a chunk that has more than the fewest rows."""

_Mask = Callable[[Tensor], Tensor]
"""bool [N] of block numbers int64 [N]."""


def representatives(block: Block) -> Tensor:
    """Mean raw key of a block per layer and key/value head: float32 [L, H*D].

    Raises InvalidInput for a block without tokens.
    """
    if block.header.tokens == 0:
        raise InvalidInput(f"block {block.key} has no tokens to be represented by")
    return block.keys().mean(2, dtype=torch.float32).flatten(1)


class MemoryIndex:
    """One stream's index. One thread appends and forgets; a view may be used by any."""

    def __init__(
        self, *, layers: int, key_dim: int, embedding_dim: int = 0, chunk_rows: int = MIN_CHUNK_ROWS
    ) -> None:
        """`chunk_rows` is the size of the first chunk."""
        self._layers = layers
        self._key_dim = key_dim
        self._embedding_dim = embedding_dim
        self._first_rows = chunk_rows
        row_bytes = 4 * (layers * (key_dim + 1) + embedding_dim) + 32
        self._most_rows = min(MAX_CHUNK_ROWS, max(chunk_rows, MAX_CHUNK_BYTES // row_bytes))
        # Replaced in one step, so that a view taken by another thread is of one moment.
        self._pieces: tuple[Piece, ...] = ()
        self._last_number = -1

    @property
    def blocks(self) -> int:
        """Blocks that can be selected."""
        return sum(piece.held for piece in self._pieces)

    @property
    def nbytes(self) -> int:
        """Bytes allocated, spare rows included."""
        return sum(piece.chunk.nbytes for piece in self._pieces)

    def append(
        self,
        number: int,
        time: TimeRange,
        tokens: int,
        representatives_LF: Tensor,
        embedding_E: Tensor | None = None,
    ) -> None:
        """Add a block, in the order of numbers; the tensors are copied.

        Raises InvalidInput when the number does not grow or a shape is not that of this stream.
        """
        if number <= self._last_number:
            raise InvalidInput(f"block {number} is indexed after block {self._last_number}")
        self._check(representatives_LF, (self._layers, self._key_dim), "representatives")
        if embedding_E is not None:
            self._check(embedding_E, (self._embedding_dim,), "embedding")
        pieces = self._pieces
        if not pieces or pieces[-1].rows == len(pieces[-1].chunk.numbers_C):
            rows = min(self._most_rows, sum(piece.rows for piece in pieces) or self._first_rows)
            chunk = Chunk(rows, self._layers, self._key_dim, self._embedding_dim)
            pieces = (*pieces, Piece(chunk, 0))
        last = pieces[-1]
        self._write(last.chunk, last.rows, number, time, tokens, representatives_LF, embedding_E)
        self._last_number = number
        alive = last.alive
        if alive is not None:
            alive = torch.cat((alive, torch.tensor([last.rows])))
        self._pieces = (*pieces[:-1], Piece(last.chunk, last.rows + 1, alive))

    def _check(self, tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
        if tuple(tensor.shape) != shape:
            raise InvalidInput(f"{name} of shape {tuple(tensor.shape)} in an index of {shape}")

    def _write(
        self,
        chunk: Chunk,
        row: int,
        number: int,
        time: TimeRange,
        tokens: int,
        representatives_LF: Tensor,
        embedding_E: Tensor | None,
    ) -> None:
        chunk.numbers_C[row] = number
        chunk.start_us_C[row] = time.start_us
        chunk.end_us_C[row] = time.end_us
        chunk.tokens_C[row] = tokens
        chunk.keys_LFC[:, :, row] = representatives_LF
        chunk.norms_LC[:, row] = representatives_LF.norm(dim=-1)
        if embedding_E is None:
            chunk.embeddings_CE[row] = 0
        else:
            chunk.embeddings_CE[row] = unit_length(embedding_E.to("cpu", torch.float32))

    def forget_before(self, number: int) -> None:
        """Blocks below `number` are gone: views taken from now on do not hold them."""
        self._keep(lambda numbers: numbers >= number)

    def forget(self, numbers: Iterable[int]) -> None:
        """These blocks are gone (numbers that are not held are ignored): later views do not hold them."""
        lost = torch.tensor(sorted(numbers), dtype=torch.int64)
        if len(lost):
            self._keep(lambda held: ~torch.isin(held, lost), int(lost[0]), int(lost[-1]))

    def view(self, before_number: int | None = None) -> IndexView:
        """What can be retrieved now: all blocks, or those numbered below `before_number`."""
        pieces = self._pieces
        if before_number is not None:
            pieces = _until(pieces, before_number)
        return IndexView(pieces, self._layers, self._key_dim, self._embedding_dim)

    def _keep(self, wanted: _Mask, first: int = 0, last: int | None = None) -> None:
        """Leave out the blocks in ``[first, last]`` that are not wanted; chunks without blocks are freed."""
        pieces = []
        for piece in self._pieces:
            numbers = piece.take(piece.chunk.numbers_C)
            outside = int(numbers[-1]) < first or (last is not None and int(numbers[0]) > last)
            kept = None if outside else wanted(numbers)
            if kept is None or bool(kept.all()):
                pieces.append(piece)
                continue
            alive = torch.arange(piece.rows) if piece.alive is None else piece.alive
            shorter = Piece(piece.chunk, piece.rows, alive[kept])
            if shorter.held:
                pieces.append(shorter)
        self._pieces = tuple(pieces)


def _until(pieces: tuple[Piece, ...], before_number: int) -> tuple[Piece, ...]:
    """The pieces with only the rows of blocks below `before_number`; the last ones are looked at first."""
    kept = len(pieces)
    while kept:
        piece = pieces[kept - 1]
        numbers = piece.take(piece.chunk.numbers_C)
        below = int(torch.searchsorted(numbers, before_number))
        if below == len(numbers):
            break
        kept -= 1
        if below:
            if piece.alive is None:
                shorter = Piece(piece.chunk, below)
            else:
                alive = piece.alive[:below]
                shorter = Piece(piece.chunk, int(alive[-1]) + 1, alive)
            return (*pieces[:kept], shorter)
    return pieces[:kept]
