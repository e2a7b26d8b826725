"""The Gloo lane shuts down its own connection and nobody else's, whatever ports others use."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from kv_transfer.lanes import gloo, gloo_device
from kv_transfer.lanes.base import LaneBroken
from tandem.core.transfer import FrameClass, LaneKind
from tests.contract.lane_pairs import lane_pair, make_frame

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
        assert sender._sockets  # type: ignore[attr-defined]
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


@pytest.mark.parametrize("end", [0, 1])
def test_strangers_who_connect_first_do_not_keep_a_lane_from_being_interrupted(
    monkeypatch: pytest.MonkeyPatch, stack: ExitStack, end: int
) -> None:
    real = gloo.make_device

    def make(host: str) -> Any:
        """The device; somebody connects to it before the peer does."""
        before = len(gloo_device._socket_fds())
        device, found = real(host)
        stack.enter_context(socket.create_connection(found))
        deadline_s = time.monotonic() + 5
        while len(gloo_device._socket_fds()) < before + 3:  # the listener, and both ends
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        return device, found

    monkeypatch.setattr(gloo, "make_device", make)
    with lane_pair(LaneKind.GLOO) as pair, ThreadPoolExecutor(1) as thread:
        lane = pair[end]
        lane.post(make_frame(FrameClass.S.size_bytes, (torch.zeros(1000, dtype=torch.uint8),), 0))
        waiting = thread.submit(lane.take, 20.0)
        time.sleep(0.1)
        began_s = time.monotonic()
        lane.interrupt()
        lane.close()
        assert time.monotonic() - began_s < 5
        assert isinstance(waiting.exception(25), LaneBroken)
