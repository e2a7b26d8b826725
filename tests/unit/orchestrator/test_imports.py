"""The orchestrator never sees a tensor: importing all of it loads neither torch nor numpy, nor Ray."""

import subprocess
import sys

PROGRAM = """
import sys
import orchestrator.__main__, orchestrator.up
heavy = {"torch", "numpy", "transformers", "av", "ray"} & set(sys.modules)
raise SystemExit(f"imported: {sorted(heavy)}" if heavy else 0)
"""


def test_nothing_heavy_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
