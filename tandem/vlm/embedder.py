"""Tensor ring: what an image-text embedder is, and its vectors as a block's header holds them.

Knows no model; implementations are in `embedders`, one file each. Shapes: U units, E numbers of an embedding.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tandem.core.blocks import EMBEDDER_DIGITS, EMBEDDING_NUMBER_BYTES, MAX_EMBEDDING_NUMBERS
from tandem.core.errors import Incompatible, InvalidInput
from tandem.vlm.model import VisualUnits


class TextEmbedder(Protocol):
    """The half that a reasoner needs. Thread-safe."""

    @property
    def name(self) -> str:
        """What it was asked for as: "pooled", a path or a hub name."""
        ...

    @property
    def dim(self) -> int:
        """Numbers of an embedding, at most `MAX_EMBEDDING_NUMBERS`."""
        ...

    @property
    def fingerprint(self) -> str:
        """32 hex digits: embeddings of different ones must not be compared, also where `dim` is the same."""
        ...

    def text(self, question: str) -> Tensor:
        """float32 [E] on the CPU, of length 1; zeros when there is nothing in the question to compare."""
        ...


class Embedder(TextEmbedder, Protocol):
    """Both halves, in one space: what an encoder needs."""

    def pictures(self, frames: Tensor, seen: VisualUnits) -> Tensor:
        """float32 [U, E] of length 1, on any device: what the last frame of each unit shows.

        `frames`: uint8 RGB [U, frames_per_unit, height, width, 3]. `seen`: the same units as the model's
        own vision tower saw them, so that an embedder may use that instead of looking again.
        """
        ...


def embedder_digits(embedder: TextEmbedder | None) -> str:
    """How headers name an embedder; empty for none."""
    return embedder.fingerprint[:EMBEDDER_DIGITS] if embedder is not None else ""


def unit_length(vectors: Tensor) -> Tensor:
    """float32 vectors [..., E] of length 1; what has no direction (zeros, not finite) becomes zeros."""
    vectors = vectors.float()
    length = vectors.norm(dim=-1, keepdim=True)
    usable = torch.isfinite(length) & (length > 0)
    return torch.where(usable, vectors / torch.where(usable, length, 1.0), 0.0)


def to_bytes(vectors: Tensor) -> list[bytes]:
    """Vectors of length 1 [U, E] as `BlockHeader.embedding`; empty where a vector has no direction."""
    vectors = vectors.cpu()
    usable = vectors.any(-1).tolist()
    halves = vectors.numpy().astype("<f2")
    return [row.tobytes() if use else b"" for row, use in zip(halves, usable, strict=True)]


def from_bytes(embedding: bytes) -> Tensor:
    """float32 [E] of a `BlockHeader.embedding` that is there. Raises InvalidInput when it is no float16."""
    if not embedding or len(embedding) % EMBEDDING_NUMBER_BYTES:
        raise InvalidInput(f"an embedding of {len(embedding)} bytes")
    return torch.from_numpy(np.frombuffer(embedding, "<f2").astype(np.float32))


def check_dim(name: str, dim: int) -> None:
    """Raise Incompatible for embeddings that a block's header cannot hold."""
    if not 0 < dim <= MAX_EMBEDDING_NUMBERS:
        raise Incompatible(
            f"embedder {name!r} makes {dim} numbers a picture, a block holds {MAX_EMBEDDING_NUMBERS}"
        )
