"""Lets a fault be caused from inside of a process: Python imports this at start where it is on the path.

On SIGUSR1 the process reads a command from ``$TANDEM_FAULT_DIR/<pid>`` and does it in its main thread. Only
the fault suite puts this directory on a path.

``hold-gil 30``
    Sleeps without letting any other thread run: the process is there, its connections are open, and nothing
    of it moves.
``clock 3600``
    The wall clock of this process jumps by so many seconds.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

_wall_clock = time.time
_ahead_s = [0.0]


def _obey(number: int, frame: FrameType | None) -> None:
    folder = os.environ.get("TANDEM_FAULT_DIR", "")
    try:
        name, value = (Path(folder) / str(os.getpid())).read_text().split()
    except (OSError, ValueError):
        return
    if name == "hold-gil":
        ctypes.PyDLL(None).sleep(int(value))
    elif name == "clock":
        _ahead_s[0] = float(value)


def _jumped() -> float:
    # gRPC makes a deadline of this clock and waits for it on the machine's own, which does not jump with it.
    caller = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001
    return _wall_clock() if caller.startswith("grpc") else _wall_clock() + _ahead_s[0]


if os.environ.get("TANDEM_FAULT_DIR"):
    # From the start: some keep the clock that they find when they are imported.
    time.time = _jumped
    signal.signal(signal.SIGUSR1, _obey)
