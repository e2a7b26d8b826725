"""The table of what the backend does at an API server, against a real one."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from tests.kube.operations import TABLE
from tests.kube.real.control_plane import ControlPlane

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif("TANDEM_KUBE_BIN" not in os.environ, reason="run by scripts/kube-check"),
]


async def test_it_does_what_the_table_says(tmp_path: Path) -> None:
    plane = ControlPlane(Path(os.environ["TANDEM_KUBE_BIN"]), tmp_path)
    try:
        await plane.start()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", "real",
            "tests/kube/test_conformance.py",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "TANDEM_KUBE_SERVER": plane.url, "TANDEM_KUBE_TOKEN": plane.token},
        )  # fmt: skip
        said = (await process.communicate())[0].decode()
    finally:
        await plane.stop()
    print(said)
    assert process.returncode == 0, said
    found = re.search(r"(\d+) passed, (\d+) skipped", said)
    assert found, said
    newer = sum(row.since > 20 for row in TABLE)
    assert (int(found[1]), int(found[2])) == (len(TABLE) + 1 - newer, newer)
