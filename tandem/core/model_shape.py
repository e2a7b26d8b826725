"""Pure. What a checkpoint's own files say of its size: keys and values, weights, tokens of a picture.

Reads no weights. Knows the configuration of Qwen2.5-VL, nested or flat as older checkpoints have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tandem.core.blocks import DTYPE_BYTES, BlockGeometry, KVLayout
from tandem.core.errors import Incompatible
from tandem.core.pictures import DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, smart_resize

DEFAULT_FPS = 2.0
"""Frames a second of a checkpoint that names no rate."""
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of one model in one element type."""

    layout: KVLayout
    parameters: int
    factor: int
    """Pixels of a visual token's side: patch times merge."""
    frames_per_unit: int
    min_pixels: int
    max_pixels: int
    frame_size: tuple[int, int] | None
    """(height, width) of every frame; None: by its own size and the pixel budget."""
    unit_text: tuple[int, int]
    """Text tokens before and after the picture of a unit."""
    sink_tokens: int
    fps: float
    """Its own rate."""
    window_units: int | None
    recent_tokens: int | None
    recalled_blocks: int | None
    max_question_tokens: int | None
    embedding_numbers: int = 0
    """Of each block, where its pictures are embedded with the model's own features."""

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights in the element type."""
        return self.parameters * DTYPE_BYTES[self.layout.dtype]

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values a token, as the model makes them."""
        return self.layout.block_bytes(1)

    def geometry(self, height: int, width: int) -> BlockGeometry:
        """Of the block of a unit of frames of this size."""
        h, w = smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)
        h, w = self.frame_size or (h, w)
        before, after = self.unit_text
        return BlockGeometry(
            text_before=before,
            grid_t=1,
            grid_h=h // self.factor,
            grid_w=w // self.factor,
            text_after=after,
        )


def shape_of(
    config: Fields,
    layout: Fields,
    pictures: Fields,
    *,
    dtype: str,
    unit_text: tuple[int, int],
    sink_tokens: int,
    max_pixels: int = 0,
    embedding_numbers: int = 0,
) -> ModelShape:
    """From config.json, tandem_layout.json and the picture processor's file, parsed.

    Raises Incompatible for a configuration that lacks what is needed.
    """
    text, vision = text_of(config), _part(config, "vision_config")
    heads = _number(text, "num_attention_heads")
    size = pictures.get("size") or {}
    low = int(pictures.get("min_pixels") or size.get("shortest_edge") or DEFAULT_MIN_PIXELS)
    high = int(pictures.get("max_pixels") or size.get("longest_edge") or DEFAULT_MAX_PIXELS)
    frame = layout.get("frame_size")
    return ModelShape(
        layout=KVLayout(
            layers=_number(text, "num_hidden_layers"),
            kv_heads=_number(text, "num_key_value_heads", heads),
            head_dim=_head_dim(text),
            dtype=dtype,
        ),
        parameters=_of_text(text, is_tied=_is_tied(config, text)) + _of_vision(vision),
        factor=_patch(vision) * _number(vision, "spatial_merge_size", 2),
        frames_per_unit=_number(vision, "temporal_patch_size", 2),
        min_pixels=min(low, max_pixels or low),
        max_pixels=min(high, max_pixels or high),
        frame_size=None if frame is None else (int(frame[0]), int(frame[1])),
        unit_text=unit_text,
        sink_tokens=sink_tokens,
        fps=float(layout.get("fps", DEFAULT_FPS)),
        window_units=layout.get("window_units"),
        recent_tokens=layout.get("recent_tokens"),
        recalled_blocks=layout.get("recalled_blocks"),
        max_question_tokens=layout.get("max_question_tokens"),
        embedding_numbers=embedding_numbers,
    )


def own_dtype(config: Fields) -> str:
    """The element type that a checkpoint runs in on a device; bfloat16 when it does not say."""
    for fields in (config, text_of(config)):
        for name in ("dtype", "torch_dtype"):
            if fields.get(name) in DTYPE_BYTES:
                return str(fields[name])
    return "bfloat16"


def text_of(config: Fields) -> Fields:
    """The language model's fields: older checkpoints have them at the top."""
    return _part(config, "text_config") if "text_config" in config else config


def _of_text(text: Fields, *, is_tied: bool) -> int:
    hidden, inner = _number(text, "hidden_size"), _number(text, "intermediate_size")
    heads = _number(text, "num_attention_heads")
    own, shared = heads * _head_dim(text), _number(text, "num_key_value_heads", heads) * _head_dim(text)
    attention = (hidden + 1) * (own + 2 * shared) + own * hidden
    layer = attention + 3 * hidden * inner + 2 * hidden
    embedding = _number(text, "vocab_size") * hidden
    return _number(text, "num_hidden_layers") * layer + hidden + embedding * (1 if is_tied else 2)


def _of_vision(vision: Fields) -> int:
    hidden, inner = _number(vision, "hidden_size"), _number(vision, "intermediate_size")
    channels = _number(vision, "in_channels", _number(vision, "in_chans", 3))
    patch = channels * _number(vision, "temporal_patch_size", 2) * _patch(vision) ** 2 * hidden
    block = 2 * hidden + (hidden + 1) * 3 * hidden + (hidden + 1) * hidden + (3 * hidden + 2) * inner + hidden
    merged = hidden * _number(vision, "spatial_merge_size", 2) ** 2
    merger = hidden + (merged + 1) * merged + (merged + 1) * _number(vision, "out_hidden_size")
    return patch + _number(vision, "depth") * block + merger


def _is_tied(config: Fields, text: Fields) -> bool:
    return bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)))


def _head_dim(text: Fields) -> int:
    return int(text.get("head_dim") or _number(text, "hidden_size") // _number(text, "num_attention_heads"))


def _patch(vision: Fields) -> int:
    return _number(vision, "patch_size", _number(vision, "spatial_patch_size", 14))


def _part(config: Fields, name: str) -> Fields:
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise Incompatible(f"config.json has no {name}: it is not that of a Qwen2.5-VL")
    return found


def _number(fields: Fields, name: str, default: int | None = None) -> int:
    value = fields.get(name, default)
    if not isinstance(value, int) or value < 1:
        raise Incompatible(f"config.json says {name} is {value!r}; a number above zero is needed")
    return value
