"""Probes of a container, and the form that they have where Kubernetes does not know gRPC yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Item = dict[str, Any]
AS_COMMAND = "kubelet-probes-grpc"
"""`exec: {command: [this, PORT, SERVICE]}` is what `grpc: {port, service}` means."""


async def answers(probe: Item, address: str) -> bool:
    """One probe, as a kubelet makes it: a connection of its own, and SERVING within its time."""
    word, port, *service = probe["exec"]["command"]
    assert word == AS_COMMAND, probe
    async with grpc.aio.insecure_channel(f"{address}:{port}") as channel:
        call = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service=service[0] if service else "")
        try:
            reply = await call(request, timeout=probe.get("timeoutSeconds", 1))
        except grpc.aio.AioRpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


async def watch(
    container: Item, address: str, ready: Callable[[bool], None], dead: Callable[[str], None]
) -> None:
    """Startup first, then readiness and liveness side by side; until cancelled."""
    if (startup := container.get("startupProbe")) and not await _until(startup, address, good=True):
        dead("startup probe failed")
        return
    async with asyncio.TaskGroup() as group:
        group.create_task(_ready(container.get("readinessProbe"), address, ready))
        if liveness := container.get("livenessProbe"):
            group.create_task(_alive(liveness, address, dead))


async def _ready(probe: Item | None, address: str, ready: Callable[[bool], None]) -> None:
    if probe is None:
        ready(True)
        return
    while True:
        await _until(probe, address, good=True, limit=False)
        ready(True)
        await _until(probe, address, good=False)
        ready(False)


async def _alive(probe: Item, address: str, dead: Callable[[str], None]) -> None:
    await _until(probe, address, good=False)
    dead("liveness probe failed")


async def _until(probe: Item, address: str, *, good: bool, limit: bool = True) -> bool:
    """`good`: until it answers, False when it never did; otherwise until it did not for its threshold."""
    failures, threshold = 0, int(probe.get("failureThreshold", 3))
    while True:
        if await answers(probe, address):
            if good:
                return True
            failures = 0
        else:
            failures += 1
            if failures >= threshold and (limit or not good):
                return False
        await asyncio.sleep(probe.get("periodSeconds", 10))
