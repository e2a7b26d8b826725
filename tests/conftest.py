"""One thread: these models are too small for two, and waiting for a busy core costs more than it gains.

Said before torch is loaded, so that it holds for the processes that tests start, too.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
