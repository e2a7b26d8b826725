"""Shell ring: from a path, hub name or builtin configuration to a `VisionLanguageModel`.

Reads safetensors only and never runs code from a checkpoint.
"""

from __future__ import annotations

from tandem.vlm.model import VisionLanguageModel


def load_model(
    source: str,
    *,
    load_format: str = "auto",
    dtype: str | None = None,
    device: str = "cpu",
    revision: str | None = None,
    seed: int = 0,
    backend: str = "auto",
    max_pixels: int | None = None,
) -> VisionLanguageModel:
    """Load a model.

    `source`: a directory, a hub name, ``"default"`` (the embedded checkpoint), or with ``load_format="dummy"`` (implied
    by the prefix ``dummy:``) a config.json, a directory that has one, or a builtin ``dummy:tiny``,
    ``dummy:tiny-timestamped``, ``dummy:qwen2.5-vl-3b``, ``dummy:qwen2.5-vl-7b``: random weights from `seed`.
    `dtype`: "float32", "bfloat16" or "float16"; None: float32 on CPUs, the checkpoint's own elsewhere.
    `backend`: attention backend ("auto", "reference", "cpu", "cuda"). `max_pixels` lowers the checkpoint's pixel
    budget per frame (it is part of the fingerprint).

    Raises NotFound (no such directory or file), Incompatible (another architecture, weights not in safetensors,
    a rope or sliding window that cannot be represented), InvalidInput (bad arguments).
    """
    raise NotImplementedError
