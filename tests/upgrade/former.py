"""The code of the release before, from the repository's history, to run beside the present one."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from tests.guards.product import ROOT

COMMIT = "0b7677f"
"""What release 0.1.0 is."""
PACKAGES = ("tandem", "kv_transfer", "encoder_svc", "reasoner_svc", "orchestrator", "bench")


def former_tree(folder: Path) -> Path:
    """Its packages, unpacked into `folder`. Skips the test where the history does not have them."""
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", COMMIT, *PACKAGES], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip(f"the history has no {COMMIT}: {made.stderr.decode(errors='replace').strip()[:200]}")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as packed:
        packed.extractall(folder, filter="data")
    return folder
