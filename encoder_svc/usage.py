"""Shell. Reads how much of the processors is used: by this process, and by all."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from encoder_svc.processors import Usage

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_USED = ("user", "nice", "system", "irq", "softirq", "steal")
"""All but idle and waiting for disks; guests are in `user` already."""


def read_usage(model_s: float) -> Usage:
    """Of the processors that this process may run on. In a container with a quota only its own use counts."""
    own_s = time.process_time()
    allowed = _allowed()
    quota = cpu_quota(_text(_QUOTA))
    if quota is not None and quota < len(allowed):
        return Usage(own_s, model_s, own_s, quota)
    times = psutil.cpu_times(percpu=True)
    used_s = sum(getattr(times[core], name, 0.0) for core in allowed if core < len(times) for name in _USED)
    return Usage(own_s, model_s, used_s, float(len(allowed)))


def cpu_quota(text: str) -> float | None:
    """Processors that `cpu.max` of a control group (v2) allows; None: no limit, or none of that form."""
    quota, _, period = text.partition(" ")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        return float(quota) / float(period)
    return None


def _allowed() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
