"""A child whose parent is gone does not stay."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tandem.core.lifetime import environment_of_child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells")
ASKS_LATE = """
import os
from tandem.core.lifetime import die_with_parent

die_with_parent(os.getppid())
print("lives")
"""


def ask(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", ASKS_LATE]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_child_of_this_process_lives() -> None:
    assert ask(environment_of_child(os.environ)).stdout == "lives\n"


def test_a_child_that_asks_after_its_parent_is_gone_ends() -> None:
    gone = ask(environment_of_child(os.environ) | {"TANDEM_PARENT_PID": "999999999"})
    assert gone.returncode == 1
    assert "ended during start-up" in gone.stderr
