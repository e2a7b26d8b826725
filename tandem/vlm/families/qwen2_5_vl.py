# ruff: noqa: N803 (shape suffixes)
"""Qwen2.5-VL: vision call, chat prompt, and how positions advance (probed, because versions differ)."""

from __future__ import annotations

from itertools import product
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
PROBE_VISUAL = PROBE_UNITS * PROBE_HEIGHT * PROBE_WIDTH
PROBE_SECONDS = 7.5
"""Per unit of the probe: long, so that the video outlasts the text; not whole: so that all rules differ."""


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
        """Probe what ``generate`` does. Raises Incompatible when it fits no rule we know."""
        twin, rate = _twin(hf), float(hf.config.vision_config.tokens_per_second)
        long, own = (_probe(twin, seconds) for seconds in (PROBE_SECONDS, seconds_per_unit))
        candidates = zip(_candidates(rate, PROBE_SECONDS), _candidates(rate, seconds_per_unit), strict=True)
        for of_long, of_own in candidates:
            if _fits(of_long, *long) and _fits(of_own, *own):
                return of_own
        raise Incompatible(f"this transformers places video in an unknown way: {long}")


def _twin(hf: Any) -> Any:
    """The same class and position settings with hardly any weights: positions do not depend on them."""
    fields = hf.config.to_dict()
    text, vision = dict(fields["text_config"]), dict(fields["vision_config"])
    small = {"hidden_size": 16, "intermediate_size": 16}
    text |= {
        **small,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "layer_types": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    }
    vision |= {**small, "depth": 1, "num_heads": 1, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = type(hf.config)(text_config=text, vision_config=vision, **{name: fields[name] for name in names})
    with torch.random.fork_rng(devices=[]):
        return type(hf)(config).eval()


def _probe(twin: Any, seconds_per_unit: float) -> tuple[Tensor, int]:
    """Positions int64 [3, T] of the probe's prompt, and the position of the first generated token."""
    config = twin.config
    merge = int(config.vision_config.spatial_merge_size)
    kinds = torch.tensor([[0] * PROBE_TEXT + [2] * PROBE_VISUAL + [0] * PROBE_TEXT])
    ids = torch.where(kinds == 2, config.video_token_id, 0)
    ids[0, PROBE_TEXT - 1] = config.vision_start_token_id  # older versions find videos by it
    seen: list[Tensor] = []

    def record(_: Any, __: Any, arguments: dict[str, Any]) -> None:
        seen.append(arguments["position_ids"][-3:, 0])

    hook = twin.model.language_model.register_forward_pre_hook(record, with_kwargs=True)
    twin.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=kinds,
        video_grid_thw=torch.tensor([[PROBE_UNITS, PROBE_HEIGHT * merge, PROBE_WIDTH * merge]]),
        second_per_grid_ts=torch.tensor([seconds_per_unit]),
        use_cache=True,  # whatever config.json says
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        pad_token_id=0,
    )
    hook.remove()
    prompt, generated = seen
    return prompt, int(generated.max())


def _candidates(rate: float, seconds_per_unit: float) -> list[AdvanceRules]:
    # The rules of the newest transformers first.
    after: tuple[Literal["spatial", "beyond"], ...] = ("spatial", "beyond")
    generation: tuple[Literal["next", "beyond"], ...] = ("next", "beyond")
    # Until 5.17 at least, a unit's seconds were cut to whole ones.
    intervals = (rate * seconds_per_unit, rate * int(seconds_per_unit))
    return [
        AdvanceRules(text_after_video=text, generation=start, units_interval=interval)
        for interval, text, start in product(intervals, after, generation)
    ]


def _expected(rules: AdvanceRules) -> Tensor:
    text = torch.arange(PROBE_TEXT).expand(3, -1)
    times = torch.tensor([rules.unit_time(unit) for unit in range(PROBE_UNITS)])
    axes = torch.meshgrid(times, torch.arange(PROBE_HEIGHT), torch.arange(PROBE_WIDTH), indexing="ij")
    video = torch.stack(axes).reshape(3, -1) + PROBE_TEXT
    after = PROBE_TEXT + rules.after_video(PROBE_UNITS, PROBE_HEIGHT, PROBE_WIDTH)
    return torch.cat([text, video, text + after], 1)


def _fits(rules: AdvanceRules, prompt_3T: Tensor, generated: int) -> bool:
    expected = _expected(rules)
    last = expected[0, -1] if rules.generation == "next" else expected.max()
    return torch.equal(expected, prompt_3T) and generated == int(last) + 1
