"""What a Ray's head that was killed leaves running ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.backends.ray_local import LocalRay, _has_ended
from orchestrator.config import OrchestratorConfig
from tests.integration.ray_nodes import is_gone

HEAD = """
import subprocess, sys, time
agent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(agent.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, None])
def test_what_a_killed_head_leaves_is_ended_too(tmp_path: Path, number: int | None) -> None:
    ray = LocalRay(OrchestratorConfig(run_dir=tmp_path), lambda text: None)
    head = subprocess.Popen(
        [sys.executable, "-c", HEAD], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    ray._process = head
    assert head.stdout is not None
    agent = int(head.stdout.readline())
    if number is not None:
        os.kill(head.pid, number)
        assert is_gone(head.pid, 5)
        assert _has_ended(head)
        assert not is_gone(agent, 0.1), "it outlives its head"
    else:
        assert not _has_ended(head)
    ray.stop()
    assert is_gone(agent, 5)
    assert head.returncode == -(number or signal.SIGTERM)
    ray.stop()
