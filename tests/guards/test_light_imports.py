"""What must start without torch does, and help comes at once."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.guards.product import ROOT

HEAVY = ("torch", "transformers", "numpy", "av", "PIL")
LIGHT = {
    "client": ["tandem", "tandem.client", "tandem.client.sources"],
    "commands": [
        "tandem.cli",
        "tandem.commands.asking",
        "tandem.commands.show_live",
        "tandem.commands.local",
    ],
    "orchestrator": [
        f"orchestrator.{path.stem}"
        for path in sorted((ROOT / "orchestrator").glob("*.py"))
        if not path.stem.startswith("__")
    ],
    "wire": ["tandem.wire.channel", "tandem.wire.convert", "tandem.wire.status"],
}


@pytest.mark.parametrize("part", LIGHT)
def test_imports_without_torch(part: str) -> None:
    script = (
        f"import sys\nfor name in {LIGHT[part]}: __import__(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["", "watch", "demo", "bench", "doctor"])
def test_help_is_instant(command: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [command, "--help"] if command else ["--help"]
    subprocess.run([sys.executable, "-m", "tandem.cli", *arguments], stdout=subprocess.PIPE, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Processor time, not the clock: other programs may keep the machine busy.
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < 0.5
