"""Tensor. Frames to the size that the model sees, where they are decoded: in the worker threads.

So that the model's thread does not resize, and frames that wait are small. The same bits as resizing later:
a frame that has its size is left alone by the model.
"""

from __future__ import annotations

import dataclasses

import torch

from encoder_svc.decode.pictures import Rgb
from encoder_svc.decode.source import SourceEvent
from encoder_svc.sample import Unit
from tandem.vlm.preprocess import Preprocessor


def fit_events(pictures: Preprocessor, events: list[SourceEvent]) -> list[SourceEvent]:
    """The events, with the frames of units at their size."""
    return [fit_unit(pictures, event) if isinstance(event, Unit) else event for event in events]


def fit_unit(pictures: Preprocessor, unit: Unit[Rgb]) -> Unit[Rgb]:
    """The unit with its frames at their size; frames that are one object stay one object."""
    fitted = {id(frame): frame for frame in unit.frames}
    if len({frame.shape for frame in fitted.values()}) > 1:
        return unit  # the source changed in the middle: `encode` settles it
    fitted = {key: _fit(pictures, frame) for key, frame in fitted.items()}
    return dataclasses.replace(unit, frames=tuple(fitted[id(frame)] for frame in unit.frames))


def _fit(pictures: Preprocessor, frame: Rgb) -> Rgb:
    # torch has no read-only tensors and warns about arrays that are.
    tensor = torch.from_numpy(frame if frame.flags.writeable else frame.copy())
    fitted: Rgb = pictures.fit(tensor[None])[0].numpy()
    return fitted
