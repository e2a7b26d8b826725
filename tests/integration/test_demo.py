"""The main job, as a newcomer starts it: real services, a real file, real answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(180)
def test_the_demo_answers_right_and_leaves_nothing(tmp_path: Path) -> None:
    report_file, run_dir = tmp_path / "demo.json", tmp_path / "run"
    ran = subprocess.run(
        [
            sys.executable, "-m", "tandem.cli", "demo",
            "--speed", "6", "--json", str(report_file), "--keep", str(run_dir),
        ],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )  # fmt: skip
    report = json.loads(report_file.read_text())
    wrong = [row for row in report["answers"] if not row["right"]]
    assert not wrong, ran.stdout
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert report["questions"] == report["right"] == len(report["answers"]) >= 8
    for row in report["answers"]:
        answer = row["answer"]
        assert answer["timings"]["first_token_ms"] > 0
        assert answer["evidence"][0]["start_us"] == 0
        # Nothing from after the question was seen, and (one sampling interval) nothing before it missed.
        assert abs(answer["evidence"][-1]["end_us"] - row["asked_us"]) <= 1_000_000
    assert report["gaps"] == 0
    assert report["frame_lag_ms"]["median"] > 0
    assert (run_dir / "demo.mp4").stat().st_size > 10_000
    assert not _using(run_dir), "a service outlived the demo"


def _using(run_dir: Path) -> list[str]:
    """Command lines of processes that name the run directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(run_dir) in words:
                found.append(words.replace("\0", " "))
    return found
