"""Where the sockets of a process listen."""

from __future__ import annotations

import os
import socket

import pytest

from tandem.commands.doctor_ray import ray_findings
from tandem.core.listeners import listeners, listeners_of


@pytest.mark.parametrize(
    ("family", "host", "shown"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0", "*"),
        (socket.AF_INET6, "::", "*"),
        (socket.AF_INET6, "::1", "[::1]"),
    ],
)
def test_it_names_the_listeners_of_a_process(family: socket.AddressFamily, host: str, shown: str) -> None:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no such address on this machine")
    with listener, socket.socket(family) as idle:
        idle.bind((host, 0))
        found = listeners_of(os.getpid())
        assert f"{shown}:{listener.getsockname()[1]}" in found
        assert not [address for address in found if address.endswith(f":{idle.getsockname()[1]}")]


def test_others_sockets_are_not_named() -> None:
    row = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0"
    assert listeners(f"heading\n{row}", {"77"}) == ["127.0.0.1:8080"]
    assert listeners(f"heading\n{row}", {"78"}) == []
    assert listeners(f"heading\n{row.replace(' 0A ', ' 01 ')}", {"77"}) == []


def test_a_ray_without_tokens_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "RAY_AUTH_MODE=disabled" in next(ray_findings()).what
