"""Pure. The fields of an encoded block header, in their order: what is written, and what a plan counts."""

from __future__ import annotations

from typing import Any

from tandem.core.blocks import BlockHeader


def header_fields(header: BlockHeader, layer_xxh3: bytes) -> dict[str, Any]:
    """By name, as docs/kv-format.md has them; `layer_xxh3` are the packed checksums of the layers."""
    geometry, layout = header.geometry, header.layout
    return {
        "stream": header.key.stream,
        "number": header.key.number,
        "kind": int(header.kind),
        "text_before": geometry.text_before,
        "grid": [geometry.grid_t, geometry.grid_h, geometry.grid_w],
        "text_after": geometry.text_after,
        "layers": layout.layers,
        "kv_heads": layout.kv_heads,
        "head_dim": layout.head_dim,
        "dtype": layout.dtype,
        "fingerprint": header.fingerprint,
        "start_us": header.time.start_us,
        "end_us": header.time.end_us,
        "tokens": header.tokens,
        "payload_bytes": header.payload_bytes,
        "codec": header.codec.value,
        "layer_xxh3": layer_xxh3,
        "embedding": header.embedding,
        "embedder": header.embedder,
    }
