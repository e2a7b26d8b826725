"""Pure. When a service that ended is started again: soon, later, once a minute when it never gets ready."""

from __future__ import annotations

from dataclasses import dataclass

_FIRST_S = 0.1
LOOP_FAILURES = 8
"""Ends in a row without being ready once: more of the same will not help."""
LOOP_WAIT_S = 60.0
"""A start costs seconds of a core, and memory of a device, that others may need."""


@dataclass(frozen=True, slots=True)
class Restart:
    """How long to wait, and what to tell a person about it; empty: nothing."""

    wait_s: float
    reason: str = ""


def restart(failures: int) -> Restart:
    """After so many ends in a row, 1 or more, since the service was last ready."""
    if failures < LOOP_FAILURES:
        return Restart(_FIRST_S * 2 ** (failures - 1))
    if failures == LOOP_FAILURES:
        return Restart(
            LOOP_WAIT_S,
            f"ended {failures} times without getting ready; it is started every {LOOP_WAIT_S:g} s now",
        )
    return Restart(LOOP_WAIT_S)
