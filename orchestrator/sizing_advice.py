"""Pure. What a plan comes to: options of `tandem up`, and values of the Helm chart."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.sizing import MAX_RUNNING, Sizing

MIB, GIB = 1 << 20, 1 << 30
SLAB_BYTES = 64 * MIB
"""RAM is taken in pieces of this size."""
REST_BYTES = GIB
"""Python, the model's libraries and what is on its way."""
VOLUME_SHARE = 0.9
"""Of a volume that the chart gives to blocks."""


def ram_bytes(plan: Sizing) -> int:
    """Budget of one reasoner: the windows of its streams, in whole slabs."""
    least = plan.streams_a_reasoner * plan.value("ram_windows_bytes") / plan.wish.streams
    return max(1, math.ceil(least / SLAB_BYTES)) * SLAB_BYTES


def disk_bytes(plan: Sizing) -> int:
    """Budget of the folder that the reasoners of one `tandem up` share."""
    return _whole(plan.value("disk_bytes"), GIB)


def up_options(plan: Sizing, model: str, revision: str, dtype: str) -> list[str]:
    """Of `tandem up`, on a machine that has all of it."""
    wish = plan.wish
    options: dict[str, Any] = {
        "model": model,
        **({"revision": revision} if revision else {}),
        "device": "cuda" if wish.device_bytes else "cpu",
        "dtype": dtype,
        "encoders": plan.encoders,
        "reasoners": plan.reasoners,
        "max-streams": max(256, wish.streams),
        "window-units": plan.window_units,
        "view-tokens": plan.view_tokens,
        "pool-bytes": wish.pool_bytes,
        "block-codec": wish.codec.value,
        "ram-bytes": ram_bytes(plan),
        "data-dir": "DIR",
        "disk-bytes": disk_bytes(plan),
        "keep-hours": f"{wish.hours:g}",
    }
    return [f"--{name}={value}" for name, value in options.items()]


def helm_values(plan: Sizing, model: str, revision: str, dtype: str, max_pixels: int = 0) -> dict[str, Any]:
    """Of the chart in helm/."""
    wish, on_gpu = plan.wish, plan.wish.device_bytes > 0
    gpu: dict[str, Any] = {"gpu": {"count": 1}} if on_gpu else {}
    share = plan.streams_a_reasoner / wish.streams
    volume = share * (plan.value("disk_bytes") + plan.value("catalogue_bytes")) / VOLUME_SHARE
    return {
        "model": {
            "name": model,
            **({"revision": revision} if revision else {}),
            "dtype": dtype,
            "maxPixels": max_pixels,
            "blockCodec": wish.codec.value,
        },
        "orchestrator": {"maxStreams": max(256, wish.streams)},
        "encoder": {
            "replicas": plan.encoders,
            "windowUnits": plan.window_units,
            **gpu,
            "resources": _resources(_encoder_memory(plan, on_gpu=on_gpu)),
        },
        "reasoner": {
            "replicas": plan.reasoners,
            "ramBytes": ram_bytes(plan),
            "poolBytes": wish.pool_bytes,
            "viewTokens": plan.view_tokens,
            **gpu,
            "disk": {
                "mode": "persistent",
                "size": _binary(_whole(volume, GIB)),
                "keepHours": wish.hours,
            },
            "resources": _resources(_reasoner_memory(plan, on_gpu=on_gpu)),
        },
    }


def _resources(memory: int) -> dict[str, Any]:
    """All of it is reserved: what a node promised to others, too, is not there when it is needed."""
    return {each: {"memory": _binary(memory)} for each in ("requests", "limits")}


def _encoder_memory(plan: Sizing, *, on_gpu: bool) -> int:
    of_streams = plan.value("outbox_bytes") + plan.value("decoder_bytes")
    streams = of_streams / plan.wish.streams * plan.streams_an_encoder
    windows = plan.value("encoder_window_bytes") * plan.streams_an_encoder
    on_device = 0.0 if on_gpu else plan.value("weights_bytes") + windows
    return _whole(REST_BYTES + streams + on_device, GIB)


def _reasoner_memory(plan: Sizing, *, on_gpu: bool) -> int:
    streams = plan.streams_a_reasoner
    index = plan.value("index_bytes") / plan.wish.streams * streams
    questions = min(max(1, math.ceil(plan.value("questions_at_once"))), MAX_RUNNING)
    on_device = (
        plan.value("weights_bytes")
        + plan.value("pool_bytes")
        + plan.value("reasoner_run_bytes") * streams
        + plan.value("question_bytes") * questions
    )
    return _whole(REST_BYTES + ram_bytes(plan) + index + (0.0 if on_gpu else on_device), GIB)


def _whole(amount: float, unit: int) -> int:
    return max(1, math.ceil(amount / unit)) * unit


def _binary(amount: int) -> str:
    return f"{amount // GIB}Gi"
