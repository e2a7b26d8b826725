"""A Ray that takes orders from strangers is refused."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from orchestrator.backends.base import services
from orchestrator.backends.ray_backend import RayBackend
from orchestrator.backends.ray_cluster import need_ray
from orchestrator.backends.ray_guard import check_guarded, is_off
from orchestrator.backends.ray_settings import RaySettings
from orchestrator.config import ServiceSettings
from tandem.core.clock import monotonic_clock
from tandem.core.errors import Incompatible, InvalidInput, PermissionRefused, Unavailable


@asynccontextmanager
async def gcs(status: grpc.StatusCode) -> AsyncIterator[str]:
    """Answers as a GCS does that guards itself with a token (`UNAUTHENTICATED`), or does not (`OK`)."""

    async def check_alive(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        if status is not grpc.StatusCode.OK:
            await context.abort(status, "InvalidAuthToken: Authentication token is missing or incorrect")
        return b""

    methods = {"CheckAlive": grpc.unary_unary_rpc_method_handler(check_alive)}
    server = grpc.aio.server()
    if status is not grpc.StatusCode.UNIMPLEMENTED:
        service = grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", methods)
        server.add_generic_rpc_handlers((service,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_one_that_asks_for_a_token_is_used():
    async with gcs(grpc.StatusCode.UNAUTHENTICATED) as address:
        await check_guarded(address, False, {})


async def test_an_open_one_is_refused_unless_allowed():
    async with gcs(grpc.StatusCode.OK) as address:
        with pytest.raises(PermissionRefused, match=r"asks for no token.*--insecure-ray"):
            await check_guarded(address, False, {})
        await check_guarded(address, True, {"RAY_AUTH_MODE": "disabled"})


async def test_no_token_on_this_side_is_refused_before_anything_is_asked():
    with pytest.raises(PermissionRefused, match="RAY_AUTH_MODE=disabled"):
        await check_guarded("127.0.0.1:1", False, {"RAY_AUTH_MODE": "disabled"})


async def test_what_is_no_ray_is_called_so():
    async with gcs(grpc.StatusCode.UNIMPLEMENTED) as address:
        with pytest.raises(InvalidInput, match="is no Ray"):
            await check_guarded(address, False, {})
    with pytest.raises(Unavailable, match="no Ray answers"):
        await check_guarded(address, False, {})


def test_tokens_are_on_unless_the_environment_says_otherwise():
    assert [is_off({"RAY_AUTH_MODE": mode}) for mode in ("token", "TOKEN", "disabled")] == [
        False,
        False,
        True,
    ]
    assert not is_off({})


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(Unavailable, match=r"pip install 'tandem\[ray\]'"):
        need_ray()


async def test_the_backend_says_so_instead_of_trying_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    said: list[str] = []
    backend = RayBackend(
        wanted=services(encoders=1, reasoners=1),
        settings=ServiceSettings(),
        ray=RaySettings(address="127.0.0.1:1"),
        secret=b"of a test",
        is_ready=lambda name: False,
        say=said.append,
        clock=monotonic_clock,
    )
    with pytest.raises(Unavailable, match=r"tandem\[ray\]"):
        await backend.start("127.0.0.1:7420")
    await backend.stop()
    assert said == []


def test_a_ray_without_tokens_is_too_old(monkeypatch: pytest.MonkeyPatch):
    old = type(sys)("ray")
    old.__version__ = "2.51.1"
    monkeypatch.setitem(sys.modules, "ray", old)
    with pytest.raises(Incompatible, match=r"2\.51\.1 has no token"):
        need_ray()
