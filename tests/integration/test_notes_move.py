"""A stream that moves from a reasoner that leaves takes its notes along, on a disk or not."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kv_transfer.block import Block
from reasoner_svc.app import Reasoner
from reasoner_svc.config import ReasonerConfig
from tandem.core.ids import Epoch
from tandem.core.tickets import Ticket, sign_ticket
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import ProvenChannel
from tests.integration.test_reasoner_notes import (  # noqa: F401 (fixtures)
    NOTES,
    SEGMENT,
    UNITS,
    blocks,
    in_view,
    model,
    note,
    watch,
    watched,
)
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import SECRET, Serving, serve


@asynccontextmanager
async def beside(model: VisionLanguageModel, **settings: Any) -> AsyncIterator[Serving]:  # noqa: F811
    """A second reasoner: `serve` wants to be the only one of its process."""
    config = ReasonerConfig(**{"name": "reasoner-1", "secret": SECRET, **settings})
    reasoner = Reasoner(config, model)
    address = await reasoner.start()
    try:
        async with ProvenChannel(address, SECRET, config.name) as channel:
            yield Serving(reasoner, address, reasoner_pb2_grpc.ReasonerServiceStub(channel), channel)
    finally:
        await reasoner.stop(grace_s=0.0)


async def move(former: Serving, to: Serving, units: int = UNITS, epoch: int = 2) -> int:
    """As the orchestrator has it: the former takes no block any more, the next one fetches all of it.

    Returns the last note that the former said to have.
    """
    names = [serving.reasoner.service._config.name for serving in (to, former)]
    ticket = Ticket(
        pair_id="move",
        epoch=Epoch(1),
        encoder_id=names[0],
        reasoner_id=names[1],
        not_after_unix_s=int(time.time()) + 60,
        nonce=secrets.token_bytes(16),
    )
    held = (await former.open(epoch=epoch)).state
    source = reasoner_pb2.OpenStreamRequest.Source(
        name=names[1],
        address=former.address,
        ticket=sign_ticket(SECRET, ticket),
        next_block_number=units + 1,
        blocks=units,
        last_note=held.last_note,
    )
    await to.stub.OpenStream(reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=epoch, source=source))
    await former.close()
    return int(held.last_note)


@pytest.mark.parametrize("from_disk", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("to_disk", [False, True], ids=["to-memory", "to-disk"])
async def test_notes_go_along(
    model: VisionLanguageModel,  # noqa: F811
    blocks: list[Block],  # noqa: F811
    tmp_path: Path,
    from_disk: bool,
    to_disk: bool,
) -> None:
    def settings(name: str, has_disk: bool) -> dict[str, Any]:
        return {"name": name, **({"data_dir": str(tmp_path / name)} if has_disk else {})}

    async with (
        serve(model, **settings("reasoner-0", from_disk)) as former,
        beside(model, **settings("reasoner-1", to_disk)) as to,
    ):
        times = await watched(former, blocks)
        before = (await former.ask()).final
        assert in_view(before) == times
        assert await move(former, to) == len(times)
        after = (await to.ask()).final
        assert in_view(after) == times
        assert list(after.token_ids) == list(before.token_ids), "bit for bit the same notes"
        call = watch(to, note_tokens=4)
        await call.initial_metadata()
        await to.reasoner.engine.flush()
        on_disk = to.reasoner.store.directory.stream(NOTES)
        assert len(on_disk) == (len(times) if to_disk else 0)
        call.cancel()
        await to.close()
        assert to.reasoner.service._keeper._unstored == {}
        assert former.reasoner.service._keeper._unstored == {}


async def test_what_does_not_fit_a_view_is_left_out_and_numbers_go_on(
    model: VisionLanguageModel,  # noqa: F811
    blocks: list[Block],  # noqa: F811
) -> None:
    async with serve(model) as former, beside(model, notes_tokens=12) as to:
        await former.open()
        call = watch(former)
        await call.initial_metadata()
        times = []
        former.publish(blocks[0])
        for first in (1, 1 + SEGMENT):
            former.publish(*blocks[first : first + SEGMENT])
            times.append((await note(call))[1])
        call.cancel()
        assert await move(former, to, units=2 * SEGMENT) == 2
        assert in_view((await to.ask()).final) == times[-1:]
        # Of note 5 something was told at the former, and it did not come to its end.
        call = watch(to, last_note=5)
        await call.initial_metadata()
        to.publish(*blocks[1 + 2 * SEGMENT :])
        number, (start_us, _), _ = await note(call)
        assert (number, start_us) == (6, times[-1][1]), "above all that were told, and about what is new"
        call.cancel()


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
async def test_notes_go_along_from_where_none_was_written(
    model: VisionLanguageModel,  # noqa: F811
    blocks: list[Block],  # noqa: F811
    tmp_path: Path,
    on_disk: bool,
) -> None:
    """Two moves in a row: whoever watches was told of no note at the second reasoner."""

    def settings(name: str) -> dict[str, Any]:
        return {"name": name, **({"data_dir": str(tmp_path / name)} if on_disk else {})}

    async with (
        serve(model, **settings("reasoner-0")) as first,
        beside(model, **settings("reasoner-1")) as second,
        beside(model, **settings("reasoner-2")) as third,
    ):
        times = await watched(first, blocks)
        await move(first, second)
        call = watch(second)
        await call.initial_metadata()
        assert await move(second, third, epoch=3) == len(times)
        call.cancel()
        assert in_view((await third.ask()).final) == times
        call = watch(third)
        await call.initial_metadata()
        more = encode_clip(model, make_frames(model, UNITS + SEGMENT))
        third.publish(*more[UNITS + 1 :])
        assert (await note(call))[0] == len(times) + 1
        call.cancel()
        await third.close()
        assert (await third.open(epoch=4)).state.last_note == 0, "forgotten with its stream"
