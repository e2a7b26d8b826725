"""Patches equal those of transformers' own processors."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from PIL import __version__ as pillow_version
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tandem.vlm.preprocess import RESAMPLINGS, Preprocessor
from tandem.vlm.resize import pillow_bicubic

BUDGET = {"min_pixels": 56 * 56, "max_pixels": 200 * 28 * 28}
SIZES = [(56, 56), (28, 28), (30, 900), (900, 40), (97, 131), (448, 448), (333, 500), (879, 340), (5, 150)]
SIZES += [(random.Random(seed).randint(20, 700), random.Random(-seed).randint(20, 700)) for seed in range(12)]


def preprocessor(resampling, frames_per_unit=2):
    return Preprocessor(patch=14, merge=2, frames_per_unit=frames_per_unit, resampling=resampling, **BUDGET)


def noise(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_equals_the_pillow_processor(height, width):
    frame = noise(1, 1, height, width, 3, seed=height)
    theirs = Qwen2VLImageProcessorPil(**BUDGET)(images=[frame[0, 0].numpy()], return_tensors="pt")
    if int(pillow_version.split(".")[0]) < 13 and height > 2 * width:
        pytest.skip("needs Pillow 13: older ones resize tall pictures in the other order")
    # The image processor repeats a picture to fill a temporal patch.
    ours, grid = preprocessor("pillow").patches(frame.expand(1, 2, -1, -1, -1))
    assert [1, *grid] == theirs["image_grid_thw"][0].tolist()
    torch.testing.assert_close(ours, theirs["pixel_values"], rtol=0, atol=1e-5)


def test_equals_the_video_processor():
    pytest.importorskip("torchvision", reason="needs torchvision")
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    processor = Qwen2VLVideoProcessor(**BUDGET, do_sample_frames=False, cap_pixels_per_frame=False)
    for height, width in SIZES:
        frames = noise(3, 2, height, width, 3, seed=width)
        theirs = processor(videos=[frames.flatten(0, 1).permute(0, 3, 1, 2)], return_tensors="pt")
        ours, grid = preprocessor("torchvision").patches(frames)
        assert [3, *grid] == theirs["video_grid_thw"][0].tolist()
        torch.testing.assert_close(ours, theirs["pixel_values_videos"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("resampling", RESAMPLINGS)
def test_units_are_the_same_alone_and_together(resampling):
    frames = noise(3, 2, 100, 75, 3)
    process = preprocessor(resampling)
    together, _ = process.patches(frames)
    alone = torch.cat([process.patches(frames[unit : unit + 1])[0] for unit in range(3)])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("size", [(56, 56), (300, 20), (17, 400), (640, 480), (31, 33)])
@pytest.mark.parametrize("new", [(56, 84), (28, 28), (200, 300)])
def test_resize_is_pillows_bit_for_bit(size, new):
    picture = noise(*size, 3, seed=sum(size))
    tall = size[0] - new[0] > max(0, 2 * (size[1] - new[1]))
    if int(pillow_version.split(".")[0]) < 13 and tall:
        pytest.skip("needs Pillow 13: older ones resize tall pictures in the other order")
    theirs = np.array(Image.fromarray(picture.numpy()).resize((new[1], new[0]), Image.Resampling.BICUBIC))
    ours = pillow_bicubic(picture.permute(2, 0, 1)[None], *new)[0].permute(1, 2, 0)
    assert torch.equal(ours, torch.from_numpy(theirs))
