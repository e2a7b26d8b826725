"""Pure. What to tell a person whose service does not start: its last words, and what usually helps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_REMEDIES = (
    ("No module named", "a package is missing: install with `pip install 'tandem[model,media]'`"),
    (
        "CUDA out of memory",
        "the device is full: a smaller --view-tokens, a smaller model, or another --device",
    ),
    ("CUDA", "the device does not work: check with `tandem doctor`, or use --device cpu"),
    ("MemoryError", "the machine's memory is full: a smaller --ram-bytes, or a smaller model"),
    ("Cannot allocate memory", "the machine's memory is full: a smaller --ram-bytes, or a smaller model"),
    ("No space left on device", "a disk or /dev/shm is full: free some space"),
    (
        "--metrics: cannot listen",
        "a port for metrics is taken: name another with --metrics",
    ),
    ("secret", "the services must read the orchestrator's secret file: do not share a run directory"),
    ("No such file", "a path does not exist: check --model"),
    ("unrecognized arguments", "the service is of another version: install all parts from one distribution"),
)


def explain(name: str, tail: Sequence[str], log_file: Path) -> str:
    """The end of the log, and a remedy where one is known."""
    text = "\n".join(tail)
    remedy = next((words for mark, words in _REMEDIES if mark in text), "")
    lines = [f"  {name} | {line}" for line in tail if not line.startswith("--- ")]
    lines.append(f"  the whole log: {log_file}")
    if remedy:
        lines.append(f"  what may help: {remedy}")
    return "\n".join(lines)
