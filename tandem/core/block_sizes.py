"""Pure. What a block takes beside its payload, and what holds blocks, in bytes: for plans, before it runs.

Each function says again what another file does, because those need torch or more; the tests hold the two
against each other, so a change of either shows.
"""

from __future__ import annotations

from typing import Any

from tandem.core.block_fields import header_fields
from tandem.core.blocks import EMBEDDER_DIGITS, EMBEDDING_NUMBER_BYTES, BlockHeader, KVLayout

PREFIX_AND_CHECKSUM_BYTES = 12 + 8
RECORD_PREFIX_BYTES = 64
ALIGN_BYTES = 64
FIRST_INDEX_ROWS, MOST_INDEX_ROWS = 64, 8192
MOST_CHUNK_BYTES = 20 * 1024 * 1024
LEAST_SEGMENT_TOKENS, LEAST_SINK_TOKENS = 256, 16
SQLITE_PAGE_BYTES, SQLITE_CELL_BYTES = 4096, 24
CATALOGUE_FIELDS_BYTES = 120
"""Of a row beside checksums and representatives."""


def aligned(length: int) -> int:
    """`length` rounded up to whole units of the disk's records and of RAM."""
    return -(-length // ALIGN_BYTES) * ALIGN_BYTES


def header_bytes(header: BlockHeader) -> int:
    """Bytes of an encoded header (docs/kv-format.md)."""
    fields = header_fields(header, bytes(8 * header.layout.layers))
    return PREFIX_AND_CHECKSUM_BYTES + packed_bytes(fields)


def with_embedding(numbers: int) -> tuple[bytes, str]:
    """An embedding and an embedder's name that take the room of real ones; empty for none."""
    return bytes(EMBEDDING_NUMBER_BYTES * numbers), "0" * EMBEDDER_DIGITS if numbers else ""


def packed_bytes(value: Any) -> int:
    """Bytes of a value as msgpack writes it: maps, lists, texts, bytes and integers from zero on."""
    if isinstance(value, dict):
        return (1 if len(value) < 16 else 3) + sum(map(packed_bytes, (*value.keys(), *value.values())))
    if isinstance(value, list):
        return (1 if len(value) < 16 else 3) + sum(map(packed_bytes, value))
    if isinstance(value, str):
        length = len(value.encode())
        return length + (1 if length < 32 else 2 if length < 256 else 3)
    if isinstance(value, bytes):
        return len(value) + (2 if len(value) < 256 else 3 if len(value) < 1 << 16 else 5)
    bounds = ((1 << 7, 1), (1 << 8, 2), (1 << 16, 3), (1 << 32, 5))
    return next((size for bound, size in bounds if value < bound), 9)


def representatives_bytes(layout: KVLayout) -> int:
    """Of a block's mean keys, float32."""
    return 4 * layout.layers * layout.kv_heads * layout.head_dim


def record_bytes(header: BlockHeader) -> int:
    """Of a block in a data file (docs/storage.md)."""
    before = RECORD_PREFIX_BYTES + header_bytes(header) + representatives_bytes(header.layout)
    return aligned(before) + aligned(header.payload_bytes)


def index_row_bytes(layout: KVLayout, embedding_numbers: int = 0) -> int:
    """What stays in RAM of every block, wherever its bytes lie (docs/retrieval.md)."""
    return 4 * (layout.layers * (layout.kv_heads * layout.head_dim + 1) + embedding_numbers) + 32


def index_bytes(row_bytes: int, blocks: int) -> int:
    """Of one stream's index of so many blocks: chunks are allocated whole, each as large as all before it."""
    most = min(MOST_INDEX_ROWS, max(FIRST_INDEX_ROWS, MOST_CHUNK_BYTES // row_bytes))
    rows = 0
    while rows < blocks:
        rows += min(most, rows or FIRST_INDEX_ROWS)
    return rows * row_bytes


def segment_tokens(held_tokens: int, added_tokens: int) -> int:
    """Tokens that a device buffer has room for when `held_tokens` stay and `added_tokens` come at once.

    A buffer without room moves to one of twice what it holds: dropping the front is then of constant cost.
    """
    return max(LEAST_SEGMENT_TOKENS, 2 * held_tokens, held_tokens + added_tokens)


def catalogue_row_bytes(layout: KVLayout, embedding_numbers: int = 0) -> int:
    """About what a block takes of a stream's catalogue: SQLite fills pages with whole rows, if any fits."""
    row = CATALOGUE_FIELDS_BYTES + 8 * layout.layers + EMBEDDING_NUMBER_BYTES * embedding_numbers
    row += representatives_bytes(layout) + SQLITE_CELL_BYTES
    rows = SQLITE_PAGE_BYTES // row
    return SQLITE_PAGE_BYTES // rows if rows else -(-row // SQLITE_PAGE_BYTES) * SQLITE_PAGE_BYTES
