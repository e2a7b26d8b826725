"""The plain health port: two names, and nothing else."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.core.errors import InvalidInput
from tandem.wire.channel import make_channel
from tandem.wire.health import READY, HealthPort

STATUS = health_pb2.HealthCheckResponse


async def test_it_lives_from_the_start_and_is_ready_while_it_takes_work() -> None:
    port, takes_work = HealthPort("127.0.0.1:0"), [False]
    address = await port.start()
    async with make_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(service: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            return int(answer.status)

        async def becomes(expected: int) -> None:
            async with asyncio.timeout(5):
                while await status(READY) != expected:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        assert await status("") == STATUS.SERVING
        assert await status(READY) == STATUS.NOT_SERVING
        port.follow(lambda: takes_work[0])
        takes_work[0] = True
        await becomes(STATUS.SERVING)
        takes_work[0] = False
        await becomes(STATUS.NOT_SERVING)
        assert await status("") == STATUS.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/tandem.v1.TandemService/GetStatus")(b"", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await port.close()


async def test_without_an_address_there_is_none() -> None:
    port = HealthPort("")
    assert await port.start() == ""
    port.follow(lambda: True)
    await port.close()


async def test_it_listens_at_one_address_only() -> None:
    with pytest.raises(InvalidInput, match="every interface"):
        await HealthPort("0.0.0.0:0").start()
