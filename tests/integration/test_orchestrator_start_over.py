"""The client against an orchestrator that no longer takes its token."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import tandem
from tandem.client.types import MediaKind
from tests.integration.orchestrator_fakes import World


async def test_a_client_whose_token_no_longer_holds_starts_over(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        async with World(tmp_path / "first") as world:
            address = world.app.address
            client = await stack.enter_async_context(tandem.connect(address))
            stream = await stack.enter_async_context(client.watch(MediaKind.PICTURES, stream_id="cam"))
            await stream.push_picture(b"jpeg", pts_us=0)
            assert (await stream.ask("what?")).text == "0 "
            token = stream.info.resume_token
        async with World(tmp_path / "second", listen=address):
            await stream.push_picture(b"jpeg", pts_us=500_000)
            assert "500" in (await asyncio.wait_for(stream.ask("what?"), 20)).text
            assert stream.info.resume_token != token
            await stream.end()
