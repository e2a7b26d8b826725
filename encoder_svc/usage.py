"""Shell. Reads how much of the processors is used: by this process, and by all."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import psutil

from encoder_svc.processors import Usage

_GROUP = Path("/sys/fs/cgroup")
"""The container's own control group, as it is seen from inside."""
_USED = ("user", "nice", "system", "irq", "softirq", "steal")
"""All but idle and waiting for disks; guests are in `user` already."""


def read_usage(model_s: float, group: Path = _GROUP) -> Usage:
    """Of the processors that this process may run on; of its container, where that has a quota of them.

    Args:
        model_s: as `Usage` has it.
        group: control group (v2) of the container.
    """
    own_s = time.process_time()
    allowed = _allowed()
    quota = cpu_quota(_text(group / "cpu.max"))
    if quota is not None and quota < len(allowed):
        used_s = group_seconds(_text(group / "cpu.stat"))
        return Usage(own_s, model_s, own_s if used_s is None else used_s, quota)
    times = psutil.cpu_times(percpu=True)
    if len(times) != os.cpu_count():  # one is offline: which of the others is whose is not told
        allowed = list(range(len(times)))
    used_s = sum(getattr(times[core], name, 0.0) for core in allowed if core < len(times) for name in _USED)
    return Usage(own_s, model_s, used_s, float(len(allowed)))


def cpu_quota(text: str) -> float | None:
    """Processors that `cpu.max` of a control group (v2) allows; None: no limit, or none of that form."""
    quota, _, period = text.partition(" ")
    with contextlib.suppress(ValueError, ZeroDivisionError):
        return float(quota) / float(period)
    return None


def group_seconds(text: str) -> float | None:
    """What all processes of a control group used, of its `cpu.stat`; None where it does not say."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec" and value.isdecimal():
            return int(value) / 1e6
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
