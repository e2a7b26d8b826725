# ruff: noqa: N803 (shape suffixes)
"""Tensor ring: frames to vision-tower patches, equal to the checkpoint's own processor. Torch only.

Knows no model. transformers 5.23 has two processors for Qwen2.5-VL, and they differ:
`Qwen2VLVideoProcessor` and `Qwen2VLImageProcessor` resize with torchvision (torch's own uint8 kernel on
CPUs), `Qwen2VLImageProcessorPil`, which transformers falls back to without torchvision, with Pillow. Both
round to whole values after each of the two passes. They differ by 1 of 255 in about one value of two
hundred, and by more where Pillow 13 takes the height first. Both are here (5e-7 after normalising):
``torchvision`` is `interpolate` on uint8, ``pillow`` is Pillow's fixed-point arithmetic. A float resize
equals neither (values overshoot between the passes: 20 of 255 on noise), so resizing happens in integers on
the CPU wherever the model runs. Which one is used never follows from what is installed
(docs/decisions/0006-fixed-resampling.md).

Shapes: U units, P frames per unit, H height, W width; h, w after resizing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from tandem.core.errors import Incompatible
from tandem.core.pictures import DEFAULT_MAX_PIXELS, DEFAULT_MIN_PIXELS, smart_resize
from tandem.vlm.resize import pillow_bicubic

Resampling = Literal["torchvision", "pillow"]
RESAMPLINGS: tuple[str, ...] = get_args(Resampling)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
"""Pillow's number of the filter, as processor configurations have it."""
CONFIG_FILES = ("video_preprocessor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessor:
    """A checkpoint's picture processing. Immutable and thread-safe."""

    patch: int
    merge: int
    frames_per_unit: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    rescale: float = 1 / 255
    resampling: Resampling = "torchvision"

    frame_size: tuple[int, int] | None = None
    """(height, width) of every frame whatever its shape; None keeps the aspect within the budget."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Size after resizing, for a frame of this size: sides are multiples of patch x merge."""
        size = smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)
        return self.frame_size or size

    def fit(self, frames_NHWC: Tensor) -> Tensor:
        """Frames uint8 at the size that `patches` would bring them to; it then leaves them alone.

        So that resizing can be done elsewhere, with the same bits. A frame whose size would not settle stays.
        """
        height, width = frames_NHWC.shape[1:3]
        size = self.size(height, width)
        if size != (height, width) and self.size(*size) == size:
            resized = _resize(frames_NHWC.permute(0, 3, 1, 2), *size, self.resampling)
            return resized.permute(0, 2, 3, 1).contiguous()
        return frames_NHWC

    def patches(
        self, frames_UPHWC: Tensor, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, tuple[int, int]]:
        """Patches float32 [U * gh * gw, 3 * P * patch * patch] on `device`, and (gh, gw) before merging."""
        assert frames_UPHWC.dtype == torch.uint8, frames_UPHWC.dtype
        units, per_unit, height, width, _ = frames_UPHWC.shape
        assert per_unit == self.frames_per_unit, (per_unit, self.frames_per_unit)
        h, w = self.size(height, width)
        frames = frames_UPHWC.flatten(0, 1).permute(0, 3, 1, 2)
        if (h, w) != (height, width):
            frames = _resize(frames.cpu(), h, w, self.resampling)
        pixels = self._normalise(frames.to(device))
        m, p = self.merge, self.patch
        grid = pixels.reshape(units, per_unit, 3, h // p // m, m, p, w // p // m, m, p)
        # [unit, gh/m, gw/m, m, m, channel, frame, patch, patch]: the order the vision tower merges in.
        ordered = grid.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return ordered.reshape(-1, 3 * per_unit * p * p), (h // p, w // p)

    def _normalise(self, frames_NCHW: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=frames_NCHW.device) / self.rescale
        std = torch.tensor(self.std, device=frames_NCHW.device) / self.rescale
        return (frames_NCHW.float() - mean[:, None, None]) / std[:, None, None]


def _resize(frames_NCHW: Tensor, height: int, width: int, resampling: Resampling) -> Tensor:
    if resampling == "pillow":
        return pillow_bicubic(frames_NCHW, height, width)
    return F.interpolate(
        frames_NCHW, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )


def read_preprocessor(
    source: Path | dict[str, Any],
    vision_config: Any,
    *,
    max_pixels: int | None,
    resampling: Resampling,
    frame_size: Sequence[int] | None = None,
) -> Preprocessor:
    """From a checkpoint's folder: video processor's file, else image processor's, else class defaults.

    Raises Incompatible for a processor that does something else.
    """
    fields = source if isinstance(source, dict) else _read_fields(source)
    if fields.get("resample", BICUBIC) != BICUBIC or not all(
        fields.get(name, True) for name in ("do_resize", "do_rescale", "do_normalize")
    ):
        raise Incompatible("the checkpoint's picture processor is not resize (bicubic), rescale, normalise")
    size = fields.get("size") or {}
    # As transformers reads them: the old names win.
    low = int(fields.get("min_pixels") or size.get("shortest_edge") or DEFAULT_MIN_PIXELS)
    high = int(fields.get("max_pixels") or size.get("longest_edge") or DEFAULT_MAX_PIXELS)
    if max_pixels is not None:
        low, high = min(low, max_pixels), min(high, max_pixels)
    return Preprocessor(
        patch=int(vision_config.patch_size),
        merge=int(vision_config.spatial_merge_size),
        frames_per_unit=int(vision_config.temporal_patch_size),
        min_pixels=low,
        max_pixels=high,
        mean=tuple(fields.get("image_mean", CLIP_MEAN)),
        std=tuple(fields.get("image_std", CLIP_STD)),
        rescale=float(fields.get("rescale_factor", 1 / 255)),
        resampling=resampling,
        frame_size=None if frame_size is None else (int(frame_size[0]), int(frame_size[1])),
    )


def _read_fields(folder: Path) -> dict[str, Any]:
    for name in CONFIG_FILES:
        if (folder / name).is_file():
            fields: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return fields
    return {}
