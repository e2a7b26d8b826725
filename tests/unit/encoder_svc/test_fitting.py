"""Frames fitted where they are decoded give the same bits as frames that the model resizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from encoder_svc.fitting import fit_unit
from encoder_svc.sample import Unit
from tandem.core.timeline import TimeRange
from tandem.vlm.load import load_model


@pytest.mark.parametrize("source", ["default", "dummy:tiny"])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 1280), (57, 300), (56, 56), (31, 29)])
def test_fitted_frames_are_seen_bit_for_bit_alike(source: str, height: int, width: int) -> None:
    model = load_model(source)
    count = model.prompt.frames_per_unit
    frames = np.random.default_rng(height).integers(0, 256, (count, height, width, 3), np.uint8)
    fitted = fit_unit(model.pictures, Unit(TimeRange(0, 1), tuple(frames))).frames
    plain = model.see(torch.from_numpy(frames)[None])
    ours = model.see(torch.from_numpy(np.stack(fitted))[None])
    assert ours.grid == plain.grid == model.grid(height, width)
    assert torch.equal(ours.embeds, plain.embeds)


def test_the_embedded_model_sees_every_shape_of_picture_at_its_own_size() -> None:
    pictures = load_model("default").pictures
    assert {pictures.size(*size) for size in [(240, 320), (720, 1280), (1080, 608)]} == {(56, 56)}


def test_one_object_stays_one_object() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    fitted = fit_unit(load_model("dummy:tiny").pictures, Unit(TimeRange(0, 1), (frame, frame))).frames
    assert fitted[0] is fitted[1]


def test_a_source_that_changes_its_size_in_the_middle_is_left_to_the_encoder() -> None:
    frames = (np.zeros((100, 100, 3), np.uint8), np.zeros((50, 100, 3), np.uint8))
    unit = Unit(TimeRange(0, 1), frames)
    assert fit_unit(load_model("dummy:tiny").pictures, unit) is unit
