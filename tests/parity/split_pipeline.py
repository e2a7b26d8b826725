"""What encoder and reasoner do, in a page: prefill in chunks, keep raw blocks, read in a view, decode."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tandem.core.blocks import BlockGeometry
from tandem.vlm.families.base import Position
from tandem.vlm.model import VisionLanguageModel
from tandem.vlm.view import Part, View

RELATIVE_TOLERANCE = 1e-4

REAL_HEADS = {
    # Head dimension, sections and group size of Qwen2.5-VL-7B; everything else small.
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "text_config": {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": 272,
        "hidden_size": 14 * 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        "bos_token_id": 256,
        "eos_token_id": 258,
    },
    "vision_config": {
        "model_type": "qwen2_5_vl_vision",
        "depth": 2,
        "hidden_size": 80,
        "intermediate_size": 128,
        "num_heads": 2,
        "window_size": 112,
        "out_hidden_size": 14 * 128,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    },
    "vision_start_token_id": 259,
    "vision_end_token_id": 260,
    "image_token_id": 261,
    "video_token_id": 262,
}


def real_heads_checkpoint(folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps(REAL_HEADS))
    (folder / "preprocessor_config.json").write_text(json.dumps({"min_pixels": 784, "max_pixels": 50176}))
    return str(folder)


@dataclass
class Encoded:
    geometry: BlockGeometry
    sink: tuple[Tensor, Tensor]
    units: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Raw keys and values [L, H, tokens, D] of each unit."""
    hidden: list[Tensor] = field(default_factory=list)


def random_frames(
    model: VisionLanguageModel, units: int, height: int = 84, width: int = 112, seed: int = 1
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (units, model.prompt.frames_per_unit, height, width, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def unit_times(model: VisionLanguageModel, units: int) -> list[int]:
    return [int(unit * model.prompt.seconds_per_unit * 1e6) for unit in range(units)]


def shifted(local: Tensor, base: Position) -> Tensor:
    return local + torch.tensor(base)[:, None]


def text_positions(start: int, tokens: int) -> Tensor:
    return (start + torch.arange(tokens)).expand(3, -1)


def encode(model: VisionLanguageModel, frames: Tensor, *, chunk: int, window: int | None = None) -> Encoded:
    """Sink, then units in chunks; with a window, unit u sees units u - window + 1 to u and the sink."""
    seen = model.see(frames)
    prompt, units = model.prompt, len(frames)
    embeds = model.unit_embeds(seen, unit_times(model, units))
    geometry = prompt.geometry(seen.grid)
    local, tokens = prompt.local_positions(geometry), geometry.tokens
    sink, recent = model.new_segment(), model.new_segment()
    sink_ids = prompt.sink_tokens()
    opened = model.forward(
        model.embed(sink_ids),
        text_positions(0, len(sink_ids)),
        View(tail=Part(segment=sink)),
        capture=True,
    )
    result = Encoded(geometry, (opened.raw_keys, opened.raw_values))
    placement = prompt.placement(geometry)
    for first in range(0, units, chunk):
        number = min(chunk, units - first)
        bases = placement.place_units(number)
        positions = torch.cat([shifted(local, base) for base in bases], 1)
        oldest = [max(0, first + i + 1 - (window or units)) for i in range(number)]
        recent.drop_front(max(0, oldest[0] * tokens - recent.start))
        view = View(
            parts=(
                Part(
                    segment=sink,
                    base=torch.tensor([placement.sink_base(unit) for unit in oldest]).T.repeat_interleave(
                        tokens, 1
                    ),
                ),
            ),
            tail=Part(
                segment=recent, first_visible=(torch.tensor(oldest) * tokens).repeat_interleave(tokens)
            ),
        )
        run = model.forward(embeds[first : first + number].flatten(0, 1), positions, view, capture=True)
        result.hidden.append(run.hidden)
        result.units += zip(
            torch.split(run.raw_keys, tokens, 2), torch.split(run.raw_values, tokens, 2), strict=True
        )
    return result


def ask(model: VisionLanguageModel, encoded: Encoded, question: str, tokens: int) -> tuple[list[int], Tensor]:
    """Greedy tokens and logits [tokens, vocabulary]; view: [sink | run of units | question and answer]."""
    prompt = model.prompt
    placement = prompt.placement(encoded.geometry)
    bases = placement.place_units(len(encoded.units))
    sink, stream, tail = (model.new_segment() for _ in range(3))
    sink.append_raw(*encoded.sink, text_positions(0, encoded.sink[0].shape[2]))
    local = prompt.local_positions(encoded.geometry)
    for (keys, values), base in zip(encoded.units, bases, strict=True):
        stream.append_raw(keys, values, shifted(local, base) - torch.tensor(bases[0])[:, None])
    ids = prompt.question_tokens(question)
    view = View(
        parts=(Part(segment=sink), Part(segment=stream, base=bases[0])),
        tail=Part(segment=tail, base=placement.after_units()),
    )
    run = model.forward(model.embed(ids), text_positions(placement.after_units()[0], len(ids)), view)
    return decode(model, run.hidden, view, placement.generation_start(len(ids)), tokens)


def decode(
    model: VisionLanguageModel, hidden: Tensor, view: View, start: int, tokens: int
) -> tuple[list[int], Tensor]:
    answer, logits = [], []
    for step in range(tokens):
        logits.append(model.logits(hidden[-1]))
        # As `stock_answer`: generation never ends early.
        ends = torch.tensor(sorted(model.prompt.eos_ids), device=model.device)
        allowed = logits[-1].index_fill(0, ends, -torch.inf)
        answer.append(int(allowed.argmax()))
        hidden = model.forward(model.embed(answer[-1:]), text_positions(start + step, 1), view).hidden
    return answer, torch.stack(logits)


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())
