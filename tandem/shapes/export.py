"""Write the trained model as a checkpoint folder that transformers loads without network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from tandem.shapes import layout, tokenizer
from tandem.shapes.network import IMAGE_MEAN, IMAGE_STD, MERGE, PATCH

# 56x56 for every picture between 2:3 and 3:2 (4703 is the last pixel count below 56x84); others: frame_size.
MIN_PIXELS, MAX_PIXELS = 56 * 56, 4703


def export(model: Any, folder: Path) -> None:
    """Write config, weights, tokenizer, processor configurations, generation defaults and layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=16,
        bos_token_id=model.config.text_config.bos_token_id,
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(folder)
    layout.save(folder)
    common = {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "size": {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        "min_pixels": MIN_PIXELS,
        "max_pixels": MAX_PIXELS,
        "patch_size": PATCH,
        "temporal_patch_size": 1,
        "merge_size": MERGE,
    }
    image = {
        **common,
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
    }
    video = {**common, "video_processor_type": "Qwen2VLVideoProcessor", "do_sample_frames": False}
    (folder / "preprocessor_config.json").write_text(json.dumps(image, indent=2) + "\n")
    (folder / "video_preprocessor_config.json").write_text(json.dumps(video, indent=2) + "\n")
