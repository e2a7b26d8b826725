"""The checkpoint in the repository: loads without network, reads real H.264, answers through generate()."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tandem.shapes.batches import video_words
from tandem.shapes.evaluate import MODEL_FOLDER, Model, answer, encode, evaluate, load
from tandem.shapes.layout import QUESTION, SINK, UNIT_PREFIX, UNIT_SUFFIX, pieces, time_tokens
from tandem.shapes.network import patches
from tandem.shapes.video import demo_clip, read_frames, render_clip, small, write_mp4

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model() -> Model:
    return load()


def test_size_and_layout_file(model: Model) -> None:
    assert sum(f.stat().st_size for f in MODEL_FOLDER.iterdir()) <= 16 * 2**20
    layout = json.loads((MODEL_FOLDER / "tandem_layout.json").read_text())
    hh, mm, ss = time_tokens(3723)
    unit = layout["unit_prefix"].format(HH=hh, MM=mm, SS=ss) + "<|video_pad|>" * 4 + layout["unit_suffix"]
    ids = model.tokenizer(unit, add_special_tokens=False).input_ids
    assert model.tokenizer.convert_ids_to_tokens(ids) == [
        *("01", "02", "03", "<|vision_start|>"),
        *["<|video_pad|>"] * 4,
        "<|vision_end|>",
    ]
    assert (layout["sink"], layout["unit_prefix"], layout["unit_suffix"]) == (SINK, UNIT_PREFIX, UNIT_SUFFIX)
    assert model.tokenizer.tokenize(SINK) == pieces(SINK)


def test_preprocessing_equals_the_image_processor() -> None:
    processor = Qwen2VLImageProcessorPil.from_pretrained(MODEL_FOLDER)
    pictures = render_clip(5, seconds=3, width=320, height=240, fps=1).pictures
    theirs = processor(images=list(pictures), return_tensors="pt")
    assert theirs["image_grid_thw"].tolist() == [[1, 4, 4]] * len(pictures)
    ours = patches(torch.from_numpy(small(pictures))).flatten(0, 1)
    torch.testing.assert_close(ours, theirs["pixel_values"], rtol=1e-5, atol=1e-5)


def test_generate_on_real_video(model: Model, tmp_path: Path) -> None:
    right = total = 0
    for seed in range(3):
        clip = render_clip(900_000 + seed, seconds=30, width=320, height=240, fps=10, start=600 * seed)
        write_mp4(tmp_path / "clip.mp4", clip)
        frames = small(read_frames(tmp_path / "clip.mp4"))
        assert len(frames) == clip.timeline.frames
        pixels = patches(torch.from_numpy(frames)).flatten(0, 1)
        head = model.tokenizer.convert_tokens_to_ids(video_words(clip.timeline))
        cache = encode(model, clip.timeline, torch.from_numpy(frames), None)
        for asked in [q for q in clip.questions if q.at > len(frames) - 1]:
            prompt = model.tokenizer(QUESTION.format(question=asked.text), add_special_tokens=False).input_ids
            ids = torch.tensor([head + prompt])
            kinds = torch.where(ids == model.net.config.video_token_id, 2, 0)
            out = model.net.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=kinds,
                pixel_values_videos=pixels,
                video_grid_thw=torch.tensor([[1, 4, 4]] * len(frames)),
            )
            said = model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
            assert said == answer(model, cache, len(frames), asked.text)
            right, total = right + (said == asked.answer), total + 1
    assert total >= 30
    assert right / total >= 0.9


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize(("events", "least"), [(8, 0.96), (32, 0.93)])
def test_held_out_accuracy(model: Model, events: int, least: float, window: int | None) -> None:
    marks, _ = evaluate(model, events, window, 5)
    every = [m for kind, found in marks.items() if events == 8 or "count" not in kind for m in found]
    assert np.mean(every) >= least


def test_demo_answers_are_right(model: Model, tmp_path: Path) -> None:
    clip = demo_clip()
    write_mp4(tmp_path / "demo.mp4", clip)
    frames = torch.from_numpy(small(read_frames(tmp_path / "demo.mp4")))
    for asked in clip.questions:
        seen = round(asked.at + 0.5)
        past = replace(clip.timeline, events=(), frames=seen)
        assert answer(model, encode(model, past, frames[:seen], 16), seen, asked.text) == asked.answer
