"""For all tests: one thread, and a collector that looks only at what tests made.

One thread, because these models are too small for two, and waiting for a busy core costs more than it gains.
Said before torch is loaded, so that it holds for the processes that tests start, too.
"""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_finish() -> None:
    """A collection over a million objects of imported modules takes a third of a second, and finds none."""
    gc.collect()
    gc.freeze()
