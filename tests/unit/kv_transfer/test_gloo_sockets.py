"""The Gloo lane shuts down its own connection and nobody else's, whatever ports others use."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kv_transfer.lanes import gloo, gloo_device
from tandem.core.transfer import LaneKind
from tests.contract.lane_pairs import lane_pair

ELSEWHERE = "127.0.0.2"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_a_strangers_connection_with_the_same_port_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack
) -> None:
    strangers: list[socket.socket] = []
    real = gloo.make_device

    def make(host: str) -> Any:
        """The device; then somebody listens on another address with its port, and is connected to."""
        device, found = real(host)
        port = found if isinstance(found, int) else found[1]
        listener = stack.enter_context(socket.create_server((ELSEWHERE, port)))
        strangers.append(stack.enter_context(socket.create_connection((ELSEWHERE, port))))
        strangers.append(stack.enter_context(listener.accept()[0]))
        return device, found

    monkeypatch.setattr(gloo, "make_device", make)
    with lane_pair(LaneKind.GLOO) as (sender, receiver):
        assert sender._socket is not None  # type: ignore[attr-defined]
        sender.interrupt()
        receiver.interrupt()
        for one, other in ((strangers[0], strangers[1]), (strangers[2], strangers[3])):
            one.sendall(b"hello")
            other.settimeout(1)
            assert other.recv(5) == b"hello"


@pytest.mark.parametrize("stranger_host", [ELSEWHERE, "127.0.0.1"])
def test_a_listener_that_appears_meanwhile_is_not_taken_for_the_device(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, stranger_host: str
) -> None:
    strangers: list[socket.socket] = []

    class Meanwhile:
        @staticmethod
        def create_device(hostname: str) -> Any:
            if not strangers:
                strangers.append(stack.enter_context(socket.create_server((stranger_host, 0))))
            return real.create_device(hostname=hostname)

    real = gloo_device.ProcessGroupGloo
    monkeypatch.setattr(gloo_device, "ProcessGroupGloo", Meanwhile)
    _device, found = gloo_device.make_device("127.0.0.1")
    port = found if isinstance(found, int) else found[1]
    assert port not in {0, strangers[0].getsockname()[1]}
