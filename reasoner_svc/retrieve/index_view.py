# ruff: noqa: N803 (shape suffixes)
"""Pure. What one question may retrieve from: an immutable snapshot of a stream's `index.MemoryIndex`.

Shapes: C rows of a chunk, N blocks in the snapshot, L layers, F key/value heads x head dimension, E
dimension of embeddings. A *row* is a block's place in the snapshot, oldest first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LOWEST = torch.finfo(torch.float32).min
"""Score of a block whose keys are not finite: it is chosen last."""


class Chunk:
    """A fixed number of rows, in the order of their blocks' numbers. A written row never changes."""

    def __init__(self, rows: int, layers: int, key_dim: int, embedding_dim: int) -> None:
        self.numbers_C = torch.empty(rows, dtype=torch.int64)
        self.start_us_C = torch.empty(rows, dtype=torch.int64)
        self.end_us_C = torch.empty(rows, dtype=torch.int64)
        self.tokens_C = torch.empty(rows, dtype=torch.int64)
        # Layer by layer, and in it dimension by dimension: scores are then sums of whole columns, which a CPU
        # does at the speed of its memory. Row by row takes two to three times as long.
        self.keys_LFC = torch.empty(layers, key_dim, rows)
        self.norms_LC = torch.empty(layers, rows)
        self.embeddings_CE = torch.empty(rows, embedding_dim)
        """Of unit length; zero where a block has none."""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in vars(self).values())


@dataclass(frozen=True, slots=True)
class Piece:
    """The rows of one chunk that a snapshot holds: the first `rows`, less those that were lost."""

    chunk: Chunk
    rows: int
    alive: Tensor | None = None
    """int64: places in the chunk of the rows that are held, ascending; None: all."""

    @property
    def held(self) -> int:
        """How many rows are held."""
        return self.rows if self.alive is None else len(self.alive)

    def take(self, column: Tensor, dim: int = 0) -> Tensor:
        """The held rows of one of the chunk's tensors, whose rows are counted by `dim`."""
        if self.alive is None:
            return column.narrow(dim, 0, self.rows)
        return column.index_select(dim, self.alive)


_Column = Callable[[Piece], Tensor]


class IndexView:
    """The blocks that a question may retrieve. Any thread may use it; it never changes."""

    def __init__(self, pieces: Sequence[Piece], layers: int, key_dim: int, embedding_dim: int) -> None:
        self._pieces = tuple(piece for piece in pieces if piece.held)
        self._blocks = sum(piece.held for piece in self._pieces)
        self.layers = layers
        self.key_dim = key_dim
        self.embedding_dim = embedding_dim
        """Zero when the stream keeps no embeddings."""

    def __len__(self) -> int:
        return self._blocks

    @cached_property
    def numbers(self) -> Tensor:
        """Block numbers int64 [N], ascending."""
        return self._column([piece.take(piece.chunk.numbers_C) for piece in self._pieces])

    @cached_property
    def start_us(self) -> Tensor:
        """Stream time at which each block begins, int64 [N], in microseconds."""
        return self._column([piece.take(piece.chunk.start_us_C) for piece in self._pieces])

    @cached_property
    def end_us(self) -> Tensor:
        """Stream time at which each block ends (exclusive), int64 [N], in microseconds."""
        return self._column([piece.take(piece.chunk.end_us_C) for piece in self._pieces])

    @cached_property
    def tokens(self) -> Tensor:
        """Tokens of each block, int64 [N]."""
        return self._column([piece.take(piece.chunk.tokens_C) for piece in self._pieces])

    def rows_of(self, numbers: Tensor) -> Tensor:
        """Rows int64 of those of `numbers` (int64) that are held here, in the order given."""
        if not len(self) or not len(numbers):
            return torch.empty(0, dtype=torch.int64)
        rows = torch.searchsorted(self.numbers, numbers).clamp_max_(len(self) - 1)
        return rows[self.numbers[rows] == numbers]

    def keys(self, layer: int, rows: Tensor) -> Tensor:
        """Representative keys float32 [len(rows), F] of one layer; `rows` int64, ascending."""
        return self._gather(rows, self.key_dim, lambda piece: piece.chunk.keys_LFC[layer].T)

    def embeddings(self, rows: Tensor) -> Tensor:
        """Embeddings float32 [len(rows), E] of unit length (zero: none); `rows` int64, ascending."""
        return self._gather(rows, self.embedding_dim, lambda piece: piece.chunk.embeddings_CE)

    def dot(self, layer: int, query_F: Tensor) -> Tensor:
        """Dot products float32 [N] of one layer's representative keys with a query; finite."""
        query = query_F.to("cpu", torch.float32)
        assert query.shape == (self.key_dim,), (query.shape, self.key_dim)
        result, at = torch.empty(len(self)), 0
        for piece in self._pieces:
            columns = piece.chunk.keys_LFC[layer, :, : piece.rows]
            part = result[at : at + piece.held]
            if piece.alive is None:
                torch.mm(query[None], columns, out=part[None])
            else:
                part.copy_((query[None] @ columns)[0, piece.alive])
            at += piece.held
        return finite(result)

    def cosine(self, layer: int, query_F: Tensor) -> Tensor:
        """Cosines float32 [N] of one layer's representative keys with a query; 0 where either is zero."""
        query = query_F.to("cpu", torch.float32)
        norms = self._joined([piece.chunk.norms_LC[layer, : piece.rows] for piece in self._pieces])
        scores = self.dot(layer, query) / (norms * query.norm()).clamp_min(torch.finfo(torch.float32).tiny)
        # What has an infinite key would come out as 0, before all that point away.
        return finite(scores.masked_fill(~norms.isfinite(), torch.nan))

    def resemblance(self, embedding_E: Tensor) -> Tensor:
        """Cosines float32 [N] of the blocks' embeddings with one embedding; 0 where either is zero."""
        query = unit_length(embedding_E.to("cpu", torch.float32))
        assert query.shape == (self.embedding_dim,), (query.shape, self.embedding_dim)
        return finite(
            self._joined([piece.chunk.embeddings_CE[: piece.rows] @ query for piece in self._pieces])
        )

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Per-row results of whole chunks, lost rows left out."""
        result, at = torch.empty(len(self)), 0
        for piece, part in zip(self._pieces, parts, strict=True):
            result[at : at + piece.held] = part if piece.alive is None else part[piece.alive]
            at += piece.held
        return result

    def _gather(self, rows: Tensor, width: int, column: _Column) -> Tensor:
        result, first, at = torch.empty(len(rows), width), 0, 0
        for piece in self._pieces:
            end = int(torch.searchsorted(rows, first + piece.held))
            inside = rows[at:end] - first
            places = inside if piece.alive is None else piece.alive[inside]
            result[at:end] = column(piece)[places]
            first, at = first + piece.held, end
        assert at == len(rows), f"rows beyond the {len(self)} that are held"
        return result

    @staticmethod
    def _column(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts)) if parts else torch.empty(0, dtype=torch.int64)


def finite(scores: Tensor) -> Tensor:
    """The scores with everything that is not a finite number replaced by `LOWEST`."""
    return scores.nan_to_num(nan=LOWEST, posinf=LOWEST, neginf=LOWEST)


def unit_length(vectors: Tensor) -> Tensor:
    """Vectors along the last dimension scaled to length 1; zero stays zero."""
    lengths: Tensor = vectors.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return vectors / lengths
