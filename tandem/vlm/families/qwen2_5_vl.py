# ruff: noqa: N803, N806 (shape suffixes)
"""Qwen2.5-VL: vision call, chat prompt, and how positions advance (probed, because versions differ)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tandem.core.errors import Incompatible
from tandem.vlm.positions import AdvanceRules
from tandem.vlm.prompt import Template

SYSTEM = "You are a helpful assistant."
DEFAULT_FPS = 2.0
"""Sampling rate of the checkpoints' own video processor."""

# The probe: text, one video whose time span, height and width all differ, text. Sides are in merged tokens.
PROBE_TEXT, PROBE_UNITS, PROBE_HEIGHT, PROBE_WIDTH = 3, 5, 2, 3


class Qwen25VL:
    """See `families.base.Family`."""

    name = "qwen2.5-vl"
    architectures = frozenset({"Qwen2_5_VLForConditionalGeneration"})

    def text_model(self, hf: Any) -> Any:
        """The decoder stack."""
        return hf.model.language_model

    def see(self, hf: Any, patches: Tensor, grid_thw: Tensor) -> Tensor:
        """Run the vision tower: merged embeddings [tokens of all units, hidden]."""
        output = hf.model.visual(patches.to(hf.model.visual.dtype), grid_thw=grid_thw)
        embeds: Tensor = output if isinstance(output, Tensor) else output.pooler_output
        return embeds

    def seconds_per_unit(self, config: Any, fps: float) -> float:
        """A unit is `temporal_patch_size` frames."""
        return float(config.vision_config.temporal_patch_size / fps)

    def native_template(self, seconds_per_unit: float) -> Template:
        """The chat template of the checkpoints, with one video before the question."""
        return Template(
            name="native",
            sink=f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n<|vision_start|>",
            unit_prefix="",
            unit_suffix="",
            question="<|vision_end|>{question}<|im_end|>\n<|im_start|>assistant\n",
            seconds_per_unit=seconds_per_unit,
            window_units=None,
        )

    def advance_rules(self, hf: Any, seconds_per_unit: float) -> AdvanceRules:
        """Probe `get_rope_index`. Raises Incompatible when its answer fits no rule we know."""
        positions_3N, delta = _probe(hf, seconds_per_unit)
        video = slice(PROBE_TEXT, PROBE_TEXT + PROBE_UNITS * PROBE_HEIGHT * PROBE_WIDTH)
        interval = float(hf.config.vision_config.tokens_per_second) * seconds_per_unit
        for rules in _candidates(interval):
            expected = _expected(rules)
            start = positions_3N.shape[1] + delta
            if torch.equal(expected, positions_3N) and start == _expected_start(rules, expected):
                return rules
        shown = positions_3N[:, video.start - 1 :: PROBE_HEIGHT * PROBE_WIDTH].tolist()
        raise Incompatible(
            f"get_rope_index of this transformers places video in an unknown way: {shown}, {delta}"
        )


def _probe(hf: Any, seconds_per_unit: float) -> tuple[Tensor, int]:
    config = hf.config
    merge = int(config.vision_config.spatial_merge_size)
    visual = PROBE_UNITS * PROBE_HEIGHT * PROBE_WIDTH
    kinds = torch.tensor([[0] * PROBE_TEXT + [2] * visual + [0] * PROBE_TEXT])
    ids = torch.where(kinds == 2, config.video_token_id, 0)
    ids[0, PROBE_TEXT - 1] = config.vision_start_token_id  # older versions find videos by it
    positions, deltas = hf.model.get_rope_index(
        input_ids=ids,
        mm_token_type_ids=kinds,
        video_grid_thw=torch.tensor([[PROBE_UNITS, PROBE_HEIGHT * merge, PROBE_WIDTH * merge]]),
        second_per_grid_ts=torch.tensor([seconds_per_unit]),
        attention_mask=torch.ones_like(ids),
    )
    return positions[:, 0], int(deltas.reshape(-1)[0])


def _candidates(interval: float) -> list[AdvanceRules]:
    # The most likely first; where rules agree on the probe they agree on what it tests.
    after: tuple[Literal["spatial", "beyond"], ...] = ("spatial", "beyond")
    generation: tuple[Literal["beyond", "next"], ...] = ("beyond", "next")
    return [
        AdvanceRules(text_after_video=text, generation=start, units_interval=interval)
        for text in after
        for start in generation
    ]


def _expected(rules: AdvanceRules) -> Tensor:
    text = torch.arange(PROBE_TEXT).expand(3, -1)
    times = torch.tensor([rules.unit_time(unit) for unit in range(PROBE_UNITS)])
    axes = torch.meshgrid(times, torch.arange(PROBE_HEIGHT), torch.arange(PROBE_WIDTH), indexing="ij")
    video = torch.stack(axes).reshape(3, -1) + PROBE_TEXT
    after = PROBE_TEXT + rules.after_video(PROBE_UNITS, PROBE_HEIGHT, PROBE_WIDTH)
    return torch.cat([text, video, text + after], 1)


def _expected_start(rules: AdvanceRules, positions_3N: Tensor) -> int:
    last = positions_3N[0, -1] if rules.generation == "next" else positions_3N.max()
    return int(last) + 1
