"""What a KV block is: its key, geometry, byte layout and header. No bytes live here.

A block holds raw keys (after any QK-norm, before rotary embedding) and values of a short span for all
layers. Payload order is layer-major, so that each layer can be fetched and verified alone::

    layer 0: K [kv_heads, tokens, head_dim]  V [kv_heads, tokens, head_dim]
    layer 1: K ...                           V ...

How the numbers of K and V are written is the block's codec, the same wherever the block travels or lies.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MAX_EMBEDDING_NUMBERS = 4096
EMBEDDING_NUMBER_BYTES = 2
EMBEDDER_DIGITS = 16


class BlockKind(IntEnum):
    """What a block's tokens are."""

    SINK = 1
    """The prompt's opening tokens, always in view; block number 0 of every stream."""
    VISUAL = 2
    """One temporal unit of video with its text frame (timestamp, vision markers) if the layout has one."""
    TEXT = 3
    """Generated or given text (notes, prompts)."""


class Codec(StrEnum):
    """How keys and values are written in a payload. What each costs in accuracy is in docs/kv-format.md."""

    RAW = "raw"
    """In the layout's element type: every bit as the model made it."""
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    """Eight bits with a float32 scale: of each channel for keys, of each token for values (KIVI,
    arXiv 2402.02750: keys have outlier channels, values do not)."""

    @classmethod
    def named(cls, name: object) -> Codec | None:
        """The codec of this name, or None."""
        return next((codec for codec in cls if codec.value == name), None)


SCALE_BYTES = 4
_INT8_ALIGN = 16
"""Halves of a layer are padded to this, so that what follows can be read as wider numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVLayout:
    """Shape of one model's keys and values."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    """Name of the element type: a key of `DTYPE_BYTES`."""

    def half_bytes(self, tokens: int, codec: Codec = Codec.RAW) -> tuple[int, int]:
        """Bytes of K and of V for one layer of `tokens` tokens, as a codec writes them."""
        numbers = self.kv_heads * tokens * self.head_dim
        if codec is Codec.INT8:
            scales = self.kv_heads * self.head_dim, self.kv_heads * tokens
            keys, values = (-(-(numbers + SCALE_BYTES * n) // _INT8_ALIGN) * _INT8_ALIGN for n in scales)
            return keys, values
        half = numbers * DTYPE_BYTES[self.dtype if codec is Codec.RAW else codec]
        return half, half

    def layer_bytes(self, tokens: int, codec: Codec = Codec.RAW) -> int:
        """Bytes of K and V together for one layer of `tokens` tokens."""
        return sum(self.half_bytes(tokens, codec))

    def block_bytes(self, tokens: int, codec: Codec = Codec.RAW) -> int:
        """Bytes of a whole block's payload."""
        return self.layers * self.layer_bytes(tokens, codec)


@dataclass(frozen=True, slots=True, order=True)
class BlockKey:
    """Identity of a block inside the service: its stream and its number in that stream (sink = 0)."""

    stream: StreamId
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGeometry:
    """How a block's tokens lie: text, then a grid of visual tokens, then text.

    Positions of the tokens follow from this and from the model family alone.
    """

    text_before: int
    grid_t: int
    grid_h: int
    grid_w: int
    """Visual tokens after spatial merging: ``grid_t * grid_h * grid_w`` of them; all zero for pure text."""
    text_after: int

    @property
    def visual_tokens(self) -> int:
        """Number of visual tokens."""
        return self.grid_t * self.grid_h * self.grid_w

    @property
    def tokens(self) -> int:
        """Number of tokens of the block."""
        return self.text_before + self.visual_tokens + self.text_after


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """Everything about a block but its payload; immutable and sent ahead of the bytes."""

    key: BlockKey
    kind: BlockKind
    geometry: BlockGeometry
    layout: KVLayout
    fingerprint: str
    """32 hex digits over everything that makes KV incompatible (weights, dtype, rope, pixels, layout)."""
    time: TimeRange
    """Stream time that the block shows; empty at 0 for the sink."""
    layer_checksums: tuple[int, ...]
    """xxh3-64 of each layer's bytes, in order; one per layer."""
    embedding: bytes = b""
    """The block's picture in the space of an image-text model, for external retrieval: a vector of length 1,
    at most `MAX_EMBEDDING_NUMBERS` little-endian float16; empty: none."""
    embedder: str = ""
    """First `EMBEDDER_DIGITS` hex digits of the fingerprint of what made the embedding; empty without one."""
    codec: Codec = Codec.RAW
    """How the payload is written."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.geometry.tokens

    @property
    def layer_bytes(self) -> int:
        """Length of one layer of the payload in bytes."""
        return self.layout.layer_bytes(self.tokens, self.codec)

    @property
    def payload_bytes(self) -> int:
        """Length of the payload in bytes."""
        return self.layout.layers * self.layer_bytes
