"""Held-out accuracy of the default model, by kind of question, with plain transformers in one process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, Qwen2_5_VLForConditionalGeneration

from tandem.shapes.batches import video_positions, video_words, window_mask
from tandem.shapes.draw import jpeg_roundtrip
from tandem.shapes.events import Timeline, draw_timeline
from tandem.shapes.layout import BLOCK_SPAN, QUESTION, SINK, WINDOW_UNITS, pieces
from tandem.shapes.network import patches
from tandem.shapes.questions import KINDS, Asker, Question
from tandem.shapes.video import scene, small

MODEL_FOLDER = Path(__file__).parent / "model"
HELD_OUT = 1_000_003  # seeds of held-out clips; training draws from other generators
Row = dict[str, Any]


@dataclass
class Model:
    """The checkpoint and its tokenizer."""

    net: Qwen2_5_VLForConditionalGeneration
    tokenizer: Any


def load(folder: Path = MODEL_FOLDER) -> Model:
    """Load the checkpoint in float32."""
    net = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return Model(net.eval(), AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def held_out_clip(seed: int, events: int) -> tuple[Timeline, Tensor, list[Question]]:
    """A clip with exactly so many events: timeline, pictures per frame, up to three questions a kind."""
    rng = np.random.default_rng([HELD_OUT, seed, events])
    timeline = draw_timeline(rng, 1, events=events, pace=float(rng.random()) * min(1.0, 24 / events))
    scenes = scene(rng, timeline, 320, 240)
    drawn = small(np.stack([jpeg_roundtrip(p, 85) for p in scenes]))
    index = [len(scenes) - 1 if i < 0 else i for i in timeline.event_of_frame()]
    asker = Asker(rng, timeline)
    found = [
        asker.ask(kind)
        for kind in KINDS
        for _ in range(1 if kind in ("count_total", "now", "last", "first") else 3)
    ]
    questions = {q.text: q for q in found if q is not None}
    return timeline, torch.from_numpy(drawn[index]), list(questions.values())


@torch.no_grad()
def encode(model: Model, timeline: Timeline, pictures: Tensor, window: int | None) -> DynamicCache:
    """The keys and values of sink and blocks, in full attention or with a sliding window of blocks."""
    inner = model.net.model
    ids = torch.tensor([model.tokenizer.convert_tokens_to_ids(video_words(timeline))])
    x = inner.language_model.embed_tokens(ids)
    grid = torch.tensor([[1, 4, 4]] * len(pictures))
    seen = inner.visual(patches(pictures).flatten(0, 1), grid_thw=grid).pooler_output
    x = x.masked_scatter((ids == inner.config.video_token_id)[..., None], seen)
    positions = torch.from_numpy(video_positions(timeline.frames, 0))[:, None]
    reach = np.array([timeline.frames if window is None else window])
    mask = torch.from_numpy(window_mask(timeline.frames, reach))
    cache = DynamicCache(config=inner.language_model.config)
    inner.language_model(
        inputs_embeds=x,
        attention_mask={"full_attention": mask},
        position_ids=positions,
        past_key_values=cache,
    )
    return cache


@torch.no_grad()
def answer(model: Model, cache: DynamicCache, frames: int, text: str, limit: int = 10) -> str:
    """Greedy answer to a question put after the encoded video; the cache is left as it was."""
    ids = model.tokenizer(QUESTION.format(question=text), add_special_tokens=False).input_ids
    length = cache.get_seq_length()
    position = len(pieces(SINK)) + BLOCK_SPAN * frames
    out: list[int] = []
    step = ids
    while len(out) < limit:
        at = torch.arange(position, position + len(step)).view(1, 1, -1).expand(3, 1, -1)
        states = model.net.model.language_model(
            input_ids=torch.tensor([step]), position_ids=at, past_key_values=cache
        ).last_hidden_state
        position += len(step)
        token = int(model.net.lm_head(states[:, -1]).argmax())
        if token == model.net.config.text_config.eos_token_id:
            break
        out.append(token)
        step = [token]
    cache.crop(length - cache.get_seq_length())
    return str(model.tokenizer.decode(out))


def evaluate(
    model: Model, events: int, window: int | None, clips: int, seeds: Iterable[int] | None = None
) -> tuple[dict[str, list[bool]], list[tuple[Question, str]]]:
    """Right or wrong per kind over held-out clips, and the wrong answers."""
    marks: dict[str, list[bool]] = defaultdict(list)
    wrong: list[tuple[Question, str]] = []
    for seed in seeds or range(clips):
        timeline, pictures, questions = held_out_clip(seed, events)
        cache = encode(model, timeline, pictures, window)
        for question in questions:
            said = answer(model, cache, timeline.frames, question.text)
            marks[question.kind].append(said == question.answer)
            if said != question.answer:
                wrong.append((question, said))
    return marks, wrong


def rows(
    folder: Path = MODEL_FOLDER,
    clips: int = 30,
    events: Sequence[int] = (8, 32, 40),
    windows: Sequence[int | None] = (None, WINDOW_UNITS),
) -> list[Row]:
    """Accuracy rows: per strategy (full or window) and number of events, over all kinds and for each kind.

    The total over all kinds leaves out `count_total`, which has its own row, so that neither hides the other.
    """
    model, out = load(folder), []
    for count in events:
        for window in windows:
            name = f"{'full' if window is None else f'window{window}'}_{count}events"
            marks, _ = evaluate(model, count, window, clips)
            every = [m for kind, kind_marks in marks.items() if kind != "count_total" for m in kind_marks]
            out.append(_row(f"accuracy_{name}", every))
            out += [_row(f"accuracy_{name}_{kind}", marks[kind]) for kind in KINDS if marks[kind]]
    return out


def _row(metric: str, marks: Sequence[bool]) -> Row:
    return {"metric": metric, "value": float(np.mean(marks)), "unit": "fraction", "n": len(marks)}


def main() -> None:
    """Print the table."""
    for row in rows():
        print(f"{row['metric']:48s} {row['value']:.4f} n={row['n']}", flush=True)


if __name__ == "__main__":
    main()
