"""What the doctor says of listeners: those that processes name, and those that the kernel knows besides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tandem.client import Status
from tandem.client.overview import BuildInfo, ServiceStatus
from tandem.client.types import ModelInfo
from tandem.commands.findings import Finding, Mark
from tandem.commands.listening import listener_findings
from tandem.core.listeners import LISTENERS, service_listeners
from tandem.core.tls_files import NO_TLS

LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as one:
    print(one.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def listening(host: str) -> Iterator[tuple[int, int]]:
    """A process that listens: its id and its port."""
    line = [sys.executable, "-c", LISTEN, host]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.communicate("")


def told(pid: int, listeners: str) -> list[Finding]:
    """What the doctor says of an orchestrator and one service, a process of this machine."""
    service = ServiceStatus(
        name="encoder-0",
        role="encoder",
        address="127.0.0.1:1",
        state="ready",
        build=BuildInfo(version="1", boot_id="b", pid=pid),
        model=ModelInfo(source="m", fingerprint="f", native_fps=2.0),
        restarts=0,
        heartbeat_age_ms=0.0,
        streams=0,
        details={LISTENERS: listeners},
    )
    build = BuildInfo(version="1", boot_id="o", pid=0)
    status = Status(build=build, services=(service,), listeners=("127.0.0.1:7420 front door (tokens)",))
    return list(listener_findings(status))


def test_every_listener_that_is_named_has_a_line_with_its_protection() -> None:
    named = service_listeners("10.0.0.1:1", NO_TLS, "10.0.0.1:2", "10.0.0.1:3")
    lines = [(finding.mark, finding.what) for finding in told(0, named)]
    assert lines == [
        (Mark.OK, "listens on 127.0.0.1:7420 front door (tokens), for this machine only"),
        (
            Mark.NOTE,
            "listens on 10.0.0.1:1 calls of encoder-0 (cluster secret), which other machines can reach",
        ),
        (Mark.OK, "listens on 10.0.0.1:2 metrics of encoder-0 (plain), which other machines can reach"),
        (Mark.OK, "listens on 10.0.0.1:3 health of encoder-0 (plain), which other machines can reach"),
    ]


@pytest.mark.parametrize(("host", "mark"), [("127.0.0.1", Mark.OK), ("0.0.0.0", Mark.BAD)])
def test_what_nobody_named_is_found(host: str, mark: Mark) -> None:
    """As a lane over Gloo has one, or a library."""
    with listening(host) as (pid, port):
        [_, found] = told(pid, "")
        shown = "*" if host == "0.0.0.0" else host
        assert (found.mark, f"encoder-0 also listens on {shown}:{port}" in found.what) == (mark, True)
        assert len(told(pid, f"{host}:{port} calls (cluster secret)")) == (2 if mark is Mark.OK else 3)
