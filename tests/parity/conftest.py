"""One thread: these models are too small for two, and waiting for a busy core costs more than it gains."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)
