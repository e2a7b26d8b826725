"""Tensor ring: models with random weights of real shapes, for tests and benchmarks.

Weights are drawn at a sane scale (outputs about as large as inputs), so that logits differ clearly between
tokens and a wrong position shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from tandem.core.errors import Incompatible, NotFound
from tandem.vlm.tokens import byte_tokenizer

BYTES = 256
PREFIX = "dummy:"

_TINY: dict[str, Any] = {
    "text_config": {
        "vocab_size": 272,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        "bos_token_id": 256,
        "eos_token_id": 258,
    },
    "vision_config": {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "window_size": 56,
        "out_hidden_size": 64,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
    },
    "vision_start_token_id": 259,
    "vision_end_token_id": 260,
    "image_token_id": 261,
    "video_token_id": 262,
}

_VISION: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "tokens_per_second": 2,
}


def _qwen(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "text_config": {
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision_config": {**_VISION, "out_hidden_size": hidden},
    }


_SMALL: dict[str, Any] = {
    # About 60 million parameters: large enough that a forward pass is the work on a CPU.
    "text_config": {
        "vocab_size": 272,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
        "bos_token_id": 256,
        "eos_token_id": 258,
    },
    "vision_config": {
        "depth": 6,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_heads": 6,
        "window_size": 112,
        "out_hidden_size": 512,
        "fullatt_block_indexes": [2, 5],
        "tokens_per_second": 2,
    },
    **{key: _TINY[key] for key in _TINY if key.endswith("_token_id")},
}

_MEDIUM: dict[str, Any] = {
    # Three layers as wide as those of Qwen2.5-1.5B: 560 MB in float32, so that decoding waits for memory.
    **_SMALL,
    "text_config": {
        **_SMALL["text_config"],
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {**_SMALL["vision_config"], "out_hidden_size": 1536},
}

_TIMESTAMPED = {
    "layout": "timestamped",
    "fps": 1.0,
    "sink": "<|im_start|>system watch<|im_end|><|im_start|>user",
    "unit_prefix": "{HH}{MM}{SS}<|vision_start|>",
    "unit_suffix": "<|vision_end|>",
    "question": "{question}<|im_end|><|im_start|>assistant",
    "window_units": 4,
}

BUILTIN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # name: (configuration, tandem_layout.json, preprocessor configuration)
    "tiny": (_TINY, {}, {"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28}),
    "tiny-timestamped": (
        {
            **_TINY,
            "vision_config": {**_TINY["vision_config"], "temporal_patch_size": 1, "tokens_per_second": 1},
        },
        _TIMESTAMPED,
        {"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28},
    ),
    "small": (_SMALL, {}, {"min_pixels": 28 * 28, "max_pixels": 32 * 28 * 28}),
    "medium": (_MEDIUM, {}, {"min_pixels": 28 * 28, "max_pixels": 32 * 28 * 28}),
    "qwen2.5-vl-3b": (_qwen(151936, 2048, 11008, 36, 16, 2), {}, {}),
    "qwen2.5-vl-7b": (_qwen(152064, 3584, 18944, 28, 28, 4), {}, {}),
}


def builtin(name: str) -> tuple[Qwen2_5_VLConfig, dict[str, Any], dict[str, Any]]:
    """(configuration, layout, picture processing) of a builtin dummy. Raises NotFound."""
    if name not in BUILTIN:
        known = ", ".join(PREFIX + known for known in BUILTIN)
        raise NotFound(f"no builtin dummy model {PREFIX + name!r}; there are: {known}")
    config, layout, pictures = BUILTIN[name]
    return Qwen2_5_VLConfig(**config), layout, pictures


def description(source: str) -> dict[str, Any]:
    """What a builtin's weights depend on, the same in every version of transformers."""
    return BUILTIN[source.removeprefix(PREFIX)][0]


def random_model(config: PreTrainedConfig, *, dtype: torch.dtype, device: str, seed: int) -> Any:
    """A model with weights from `seed`; same seed, device type and dtype: same weights."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        # Born on "meta" and filled in place: no time is spent on an initialisation that is thrown away.
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    rotaries = [module for module in model.modules() if hasattr(module, "inv_freq")]
    model.to_empty(device=device)
    for rotary in rotaries:
        _refill(model, rotary, device)
    model.tie_weights()
    _fill(model, torch.Generator(device=device).manual_seed(seed))
    return model


def _refill(model: nn.Module, rotary: nn.Module, device: str) -> None:
    # Frequencies are buffers computed at construction: build the small module again off "meta".
    fresh = type(rotary)(config=rotary.config)
    for name, buffer in fresh.named_buffers():
        setattr(rotary, name, buffer.to(device))


@torch.no_grad()
def _fill(model: nn.Module, generator: torch.Generator) -> None:
    for name, weight in model.named_parameters():
        if "norm" in name or name.endswith("ln_q.weight"):
            weight.normal_(1.0, 0.1, generator=generator)
        elif weight.ndim == 1:
            weight.normal_(0.0, 0.1, generator=generator)
        elif "embed_tokens" in name:
            weight.normal_(0.0, 1.0, generator=generator)
        else:
            weight.normal_(0.0, weight[0].numel() ** -0.5, generator=generator)


def dummy_tokenizer(config: Any) -> str:
    """A byte tokenizer whose special tokens have the configuration's ids."""
    text = config.text_config
    end = text.eos_token_id[0] if isinstance(text.eos_token_id, list) else text.eos_token_id
    special = {
        "<|endoftext|>": text.bos_token_id,
        "<|im_start|>": end - 1,
        "<|im_end|>": end,
        "<|vision_start|>": config.vision_start_token_id,
        "<|vision_end|>": config.vision_end_token_id,
        "<|image_pad|>": config.image_token_id,
        "<|video_pad|>": config.video_token_id,
    }
    ids = set(special.values())
    if len(ids) < len(special) or min(ids) < BYTES or max(ids) >= text.vocab_size:
        raise Incompatible(
            f"special tokens {special} do not fit beside {BYTES} bytes in {text.vocab_size} tokens"
        )
    return byte_tokenizer(sorted(special.items(), key=lambda item: item[1]))
