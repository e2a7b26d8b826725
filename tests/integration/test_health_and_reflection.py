"""Every service answers a health check and, where that was asked for, tells tools what it serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from encoder_svc.app import EncoderApp
from encoder_svc.config import EncoderConfig
from orchestrator.app import Orchestrator
from orchestrator.config import OrchestratorConfig
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.channel import make_channel

SECRET = b"sixteen bytes or more"


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


Ends = tuple[Callable[[], Awaitable[str]], Callable[[], Awaitable[None]]]
"""How it is started and stopped."""
Make = Callable[[VisionLanguageModel, Path, bool], Ends]


def _encoder(model: VisionLanguageModel, _: Path, reflection: bool) -> Ends:
    app = EncoderApp(EncoderConfig(reflection=reflection), model, SECRET)
    return app.start, app.stop


def _reasoner(model: VisionLanguageModel, _: Path, reflection: bool) -> Ends:
    reasoner = Reasoner(ReasonerConfig(name="reasoner", secret=SECRET, reflection=reflection), model)
    return reasoner.start, lambda: reasoner.stop(0.0)


def _orchestrator(_: VisionLanguageModel, folder: Path, reflection: bool) -> Ends:
    config = OrchestratorConfig(
        listen="127.0.0.1:0", run_dir=folder, encoders=0, reasoners=0, reflection=reflection
    )
    app = Orchestrator(config, lambda text: None)
    return app.start, app.stop


SERVICES: dict[str, Make] = {
    "tandem.v1.EncoderService": _encoder,
    "tandem.v1.ReasonerService": _reasoner,
    "tandem.v1.TandemService": _orchestrator,
}
each_service = pytest.mark.parametrize("name", list(SERVICES))


@asynccontextmanager
async def serving(
    name: str, model: VisionLanguageModel, folder: Path, *, reflection: bool
) -> AsyncIterator[grpc.aio.Channel]:
    start, stop = SERVICES[name](model, folder, reflection)
    address = await start()
    try:
        async with make_channel(address) as channel:
            yield channel
    finally:
        await stop()


async def listed(channel: grpc.aio.Channel) -> set[str]:
    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests())
    return {service.name async for response in call for service in response.list_services_response.service}


@each_service
async def test_health_and_reflection(name: str, model: VisionLanguageModel, tmp_path: Path) -> None:
    async with serving(name, model, tmp_path, reflection=True) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", name):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert {name, "grpc.reflection.v1alpha.ServerReflection"} <= await listed(channel)


@each_service
async def test_no_reflection_unless_asked_for(name: str, model: VisionLanguageModel, tmp_path: Path) -> None:
    async with serving(name, model, tmp_path, reflection=False) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(channel)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
