"""Pure. What a stream, a block and a question take of each tier, by the documents' formulas, each told."""

from __future__ import annotations

import math

from orchestrator.capacity import MAX_RAM
from orchestrator.sizing_wish import Line, Wish
from tandem.core.block_sizes import (
    LEAST_SINK_TOKENS,
    aligned,
    catalogue_row_bytes,
    header_bytes,
    index_bytes,
    index_row_bytes,
    record_bytes,
    segment_tokens,
    with_embedding,
)
from tandem.core.blocks import BlockHeader, BlockKey, BlockKind
from tandem.core.ids import StreamId
from tandem.core.model_shape import ModelShape
from tandem.core.timeline import MICROSECONDS, TimeRange

DEFAULT_WINDOW_UNITS, DEFAULT_VIEW_TOKENS, DEFAULT_RECALLED_BLOCKS = 64, 32_768, 64
"""Of services, for checkpoints that say nothing."""
RUN_UNITS = 8
"""Most units of one stream in one forward pass."""
OUTBOX_BLOCKS, OUTBOX_BYTES = 64, 256 << 20
DECODER_BYTES, DECODER_PIXEL_BYTES = 5 << 20, 8
"""Of the process that decodes one stream: its own, and for each pixel of a frame (docs/operating.md)."""
MAX_QUESTION_TOKENS, ANSWER_TOKENS = 2048, 256


class Needs:
    """The numbers, in the order in which they follow from each other; `lines` has them all."""

    def __init__(self, shape: ModelShape, wish: Wish) -> None:
        self.shape, self.wish = shape, wish
        self.lines: list[Line] = []
        self.geometry = shape.geometry(wish.height, wish.width)
        self.tokens = self.geometry.tokens
        self.window = wish.window_units or shape.window_units or DEFAULT_WINDOW_UNITS
        self.view = wish.view_tokens or shape.recent_tokens or DEFAULT_VIEW_TOKENS
        self.units_a_stream = wish.fps / shape.frames_per_unit
        self.units = wish.streams * self.units_a_stream
        self.hour_blocks = math.ceil(3600 * self.units_a_stream)
        self.kept_blocks = math.ceil(3600 * wish.hours * self.units_a_stream)
        self._blocks()
        self._device()
        self._memory()

    def add(self, key: str, tier: str, what: str, value: float, unit: str, formula: str) -> float:
        """One more number."""
        self.lines.append(Line(key, tier, what, value, unit, formula))
        return value

    def _blocks(self) -> None:
        """One block, and how many a second."""
        shape, geometry, layout = self.shape, self.geometry, self.shape.layout
        text = geometry.text_before + geometry.text_after
        self.add(
            "unit_tokens",
            "block",
            "tokens of a unit",
            self.tokens,
            "tokens",
            f"{geometry.grid_h} · {geometry.grid_w} of the picture + {text} of text",
        )
        self.add(
            "token_bytes",
            "block",
            "keys and values of a token",
            shape.token_bytes,
            "B",
            f"2 · {layout.layers} layers · {layout.kv_heads} heads · {layout.head_dim}"
            f" · {shape.token_bytes // (2 * layout.layers * layout.kv_heads * layout.head_dim)} B",
        )
        self.block_bytes = layout.block_bytes(self.tokens, self.wish.codec)
        self.add(
            "block_bytes",
            "block",
            "payload of a block",
            self.block_bytes,
            "B",
            f"{self.tokens} tokens in codec {self.wish.codec}",
        )
        self.header = self._header()
        self.add(
            "header_bytes",
            "block",
            "its header",
            header_bytes(self.header),
            "B",
            "docs/kv-format.md; a little more or less with the stream's name",
        )
        self.add(
            "units_per_second",
            "traffic",
            "units (blocks) a second",
            self.units,
            "1/s",
            f"{self.wish.streams} streams · {self.wish.fps:g} fps / {shape.frames_per_unit} frames",
        )
        self.add(
            "bytes_per_second",
            "traffic",
            "encoders to reasoners",
            self.units * self.block_bytes,
            "B/s",
            f"{self.units:g} blocks/s · {self.block_bytes} B",
        )

    def _device(self) -> None:
        """Weights, windows, runs, pool, questions."""
        shape, wish, token = self.shape, self.wish, self.shape.token_bytes
        self.weights = shape.weights_bytes
        self.add(
            "weights_bytes",
            "device",
            "weights, of each service",
            self.weights,
            "B",
            f"{shape.parameters} parameters in {shape.layout.dtype}",
        )
        room = segment_tokens(self.window * self.tokens, RUN_UNITS * self.tokens)
        sink = segment_tokens(0, shape.sink_tokens)
        self.window_device = (room + sink) * token
        self.add(
            "encoder_window_bytes",
            "device",
            "encoder: a stream's window, at most",
            self.window_device,
            "B",
            f"(max(256, {self.tokens} · max(2 · {self.window} units, {self.window} + {RUN_UNITS}))"
            f" + {sink} of the sink) · {token} B",
        )
        held = min(self.view // self.tokens, self.kept_blocks) * self.tokens
        sink = max(LEAST_SINK_TOKENS, shape.sink_tokens)
        self.run = (segment_tokens(held, self.tokens) + sink) * token
        self.add(
            "reasoner_run_bytes",
            "device",
            "reasoner: a stream's recent view, at most",
            self.run,
            "B",
            f"(max(256, 2 · {held} tokens) + {sink} of the sink) · {token} B",
        )
        self.add(
            "pool_bytes", "device", "reasoner: pool", wish.pool_bytes, "B", "--pool-bytes, allocated once"
        )
        recalled = self._recalled() * self.tokens
        prompt = min(shape.max_question_tokens or MAX_QUESTION_TOKENS, MAX_QUESTION_TOKENS) + ANSWER_TOKENS
        self.question = (recalled + max(256, 2 * prompt)) * token
        self.add(
            "question_bytes",
            "device",
            "reasoner: an open question, at most",
            self.question,
            "B",
            f"({recalled} recalled + 2 · {prompt} of question and answer) · {token} B",
        )
        self.at_once = wish.questions_per_minute / 60 * wish.answer_s
        self.add(
            "questions_at_once",
            "traffic",
            "questions at once",
            self.at_once,
            "",
            f"{wish.questions_per_minute:g} a minute / 60 · {wish.answer_s:g} s",
        )

    def _memory(self) -> None:
        """RAM and disk."""
        shape, wish, streams = self.shape, self.wish, self.wish.streams
        self.window_bytes = self.window * self.block_bytes
        self.add(
            "window_bytes",
            "RAM",
            "reasoner: what a stream is let in for",
            self.window_bytes,
            "B",
            f"{self.window} units · {self.block_bytes} B",
        )
        self.add(
            "ram_windows_bytes",
            "RAM",
            "reasoners: least budget in all",
            streams * self.window_bytes / MAX_RAM,
            "B",
            f"{streams} streams · {self.window_bytes} B / {MAX_RAM:g}",
        )
        kept = streams * self.kept_blocks * aligned(self.block_bytes)
        self.add(
            "ram_all_bytes",
            "RAM",
            f"or, to hold {wish.hours:g} h without a disk",
            kept,
            "B",
            f"{streams} streams · {self.kept_blocks} blocks · {aligned(self.block_bytes)} B",
        )
        row = index_row_bytes(shape.layout, shape.embedding_numbers)
        index = streams * index_bytes(row, self.kept_blocks)
        key_numbers = shape.layout.kv_heads * shape.layout.head_dim
        self.add(
            "index_bytes",
            "RAM",
            f"reasoners: index of {wish.hours:g} h, beside the budget",
            index,
            "B",
            f"{streams} streams · {index // streams // row} rows, in chunks, · (4 · ({shape.layout.layers} · "
            f"({key_numbers} + 1) + {shape.embedding_numbers}) + 32) B",
        )
        outbox = streams * min(OUTBOX_BLOCKS * self.block_bytes, OUTBOX_BYTES)
        self.add(
            "outbox_bytes",
            "RAM",
            "encoders: blocks not yet published, at most",
            outbox,
            "B",
            f"{streams} streams · min({OUTBOX_BLOCKS} · {self.block_bytes} B, 256 MiB)",
        )
        self.add(
            "decoder_bytes",
            "RAM",
            "encoders: processes that decode, about",
            streams * (DECODER_BYTES + DECODER_PIXEL_BYTES * wish.width * wish.height),
            "B",
            f"{streams} streams · (5 MiB + {DECODER_PIXEL_BYTES} B · {wish.width} · {wish.height})",
        )
        self._disk()

    def _disk(self) -> None:
        wish, streams = self.wish, self.wish.streams
        record = record_bytes(self.header)
        self.add(
            "disk_bytes_per_hour",
            "disk",
            "an hour",
            streams * self.hour_blocks * record,
            "B/h",
            f"{streams} streams · {self.hour_blocks} blocks · {record} B a record",
        )
        self.add(
            "disk_bytes",
            "disk",
            f"{wish.hours:g} h",
            streams * self.kept_blocks * record,
            "B",
            f"{streams} streams · {self.kept_blocks} blocks · {record} B a record",
        )
        row = catalogue_row_bytes(self.shape.layout, self.shape.embedding_numbers)
        self.add(
            "catalogue_bytes",
            "disk",
            "catalogue, beside the budget, about",
            streams * self.kept_blocks * row,
            "B",
            f"{streams} streams · {self.kept_blocks} blocks · {row} B a row",
        )

    def _recalled(self) -> int:
        given, own = self.wish.recalled_blocks, self.shape.recalled_blocks
        return given if given >= 0 else DEFAULT_RECALLED_BLOCKS if own is None else own

    def _header(self) -> BlockHeader:
        embedding, embedder = with_embedding(self.shape.embedding_numbers)
        end_us = round(self.wish.hours * 3600 * MICROSECONDS)
        return BlockHeader(
            key=BlockKey(StreamId("s-0123456789ab"), self.kept_blocks),
            kind=BlockKind.VISUAL,
            geometry=self.geometry,
            layout=self.shape.layout,
            fingerprint="0" * 32,
            time=TimeRange(end_us, end_us),
            layer_checksums=(0,) * self.shape.layout.layers,
            embedding=embedding,
            embedder=embedder,
            codec=self.wish.codec,
        )
