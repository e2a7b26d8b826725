"""The default model's configuration, and faster equivalents of two of its forwards for training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

SIDE = 56
PATCH = 14
MERGE = 2
TOKENS_PER_FRAME = (SIDE // PATCH // MERGE) ** 2
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
HIDDEN = 192
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1e6,
    "mrope_section": [6, 5, 5],
    "original_max_position_embeddings": 600,
    "low_freq_factor": 1.0,
    "high_freq_factor": 1.25,
    "factor": 256.0,
}
"""Six of a head's sixteen frequencies turn (wavelengths of 6 to 471 positions), ten stand still.

What a head recognises over a whole clip must not turn with distance, and 60 minutes, 60 seconds or 19 shapes
and colours want more room than the 12 dimensions that plain RoPE leaves still over 800 positions.
"""


def make_config(vocabulary: dict[str, int]) -> Qwen2_5_VLConfig:
    """The configuration of the default model for a vocabulary that holds Qwen's special tokens."""
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(vocabulary),
            "hidden_size": HIDDEN,
            "intermediate_size": 448,
            "num_hidden_layers": 5,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": ROPE,
            "bos_token_id": vocabulary["<|endoftext|>"],
            "eos_token_id": vocabulary["<|im_end|>"],
            "pad_token_id": vocabulary["<|endoftext|>"],
        },
        vision_config={
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 1,
            "tokens_per_second": 1,
            "window_size": 112,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0, 1, 2],
        },
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
        bos_token_id=vocabulary["<|endoftext|>"],
        eos_token_id=vocabulary["<|im_end|>"],
        pad_token_id=vocabulary["<|endoftext|>"],
        tie_word_embeddings=False,
    )


def make_model(vocabulary: dict[str, int], seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A freshly initialised default model."""
    torch.manual_seed(seed)
    config = make_config(vocabulary)
    model = Qwen2_5_VLForConditionalGeneration(config)
    for name, weight in model.named_parameters():
        if weight.ndim >= 2 and "embed_tokens" not in name:
            nn.init.normal_(weight, std=(weight[0].numel()) ** -0.5)
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=1.0)
    nn.init.normal_(model.lm_head.weight, std=0.02)
    return model


def patches(pictures: Tensor) -> Tensor:
    """Turn uint8 pictures [N, 56, 56, 3] into Qwen's flattened patches [N, 16, 588]."""
    mean, std = torch.tensor(IMAGE_MEAN), torch.tensor(IMAGE_STD)
    x = (pictures.float() / 255.0 - mean) / std
    g = SIDE // PATCH // MERGE
    x = x.reshape(-1, g, MERGE, PATCH, g, MERGE, PATCH, 3)
    return x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(len(pictures), 16, 3 * PATCH * PATCH)


def rotate_half(x: Tensor) -> Tensor:
    """The second half of the last dimension, negated, before the first: what RoPE weighs by sines."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((-b, a), dim=-1)


def tower_forward(visual: Any, x: Tensor) -> Tensor:
    """The vision tower on patches [N, 16, 588], batched over pictures: visual tokens [N, 4, hidden].

    The same modules and sums as the tower's own forward, which attends picture by picture in a loop.
    """
    n, length, _ = x.shape
    h = torch.tensor([2 * i + a for i in range(2) for j in range(2) for a in range(2) for b in range(2)])
    w = torch.tensor([2 * j + b for i in range(2) for j in range(2) for a in range(2) for b in range(2)])
    x = visual.patch_embed(x.reshape(n * length, -1)).view(n, length, -1)
    cos, sin = visual.rotary_pos_emb(x, torch.stack([h, w], dim=-1))
    for block in visual.blocks:
        heads = block.attn.num_heads
        qkv = block.attn.qkv(block.norm1(x)).view(n, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + block.attn.proj(seen.transpose(1, 2).reshape(n, length, -1))
        x = x + block.mlp(block.norm2(x))
    merged: Tensor = visual.merger(x.reshape(n * length, -1))
    return merged.view(n, TOKENS_PER_FRAME, -1)
