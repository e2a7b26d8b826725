"""The process: starts, says so, answers, ends when told."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import ProvenChannel

START_S = 90


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret of the cluster\n")
    command = [sys.executable, "-m", "reasoner_svc", "--name", "r-0", "--secret-file", str(secret)]
    command += ["--model", "dummy:tiny", "--threads", "1", "--die-with-parent"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as child:
        yield child
        child.kill()


async def test_it_serves_until_it_is_told_to_stop(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"reasoner r-0 is ready on (127\.0\.0\.1:\d+) \(pid (\d+)\)\n", line)
    assert found, (line, process.stderr.read() if process.stderr else "")
    assert int(found[2]) == process.pid
    async with ProvenChannel(found[1], b"a secret of the cluster", "r-0") as channel:
        stub = reasoner_pb2_grpc.ReasonerServiceStub(channel)
        opened = await stub.OpenStream(
            reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=1), timeout=START_S
        )
        assert re.fullmatch(r"[0-9a-f]{32}", opened.model.fingerprint)
        assert opened.model.native_fps > 0
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=START_S)
    assert process.returncode == 0, said


def test_mistakes_are_told_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from reasoner_svc.__main__ import main;"
        f"status = main(['--name', 'r 0', '--secret-file', {str(tmp_path / 'absent')!r}]);"
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=START_S, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "cannot read the secret file" in done.stderr
