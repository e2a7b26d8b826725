"""Concurrent watching against a slow reference that writes every note again in its order of arrival."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.notes.box import NoteRecord, ThoughtBox
from tandem.core.ids import StreamId
from tandem.core.watching import TextPositions, Watching, WatchMode
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tandem.wire.gen.tandem.v1 import reasoner_pb2
from tests.parity.literal_watching import LiteralWatcher, Written
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, serve

pytestmark = pytest.mark.timeout(300)
UNITS, FIRST, TOKENS, EVERY = 24, 1, 24, 4
TOLERANCE = 1e-4
PROMPT = "what now?"


class Recording:
    """The model; it keeps what went through it, and has a block arrive after every few passes."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.passes: list[tuple[int, ...]] = []
        self.rows: list[Tensor] = []
        self.on_pass = lambda count: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed(self, ids: Any) -> Tensor:
        self.passes.append(tuple(int(token) for token in ids))
        return self._model.embed(ids)

    def logits(self, hidden: Tensor) -> Tensor:
        logits = self._model.logits(hidden)
        self.rows += list(logits)
        self.on_pass(len(self.rows))
        return logits


@dataclasses.dataclass
class Rig:
    model: Any
    stock: Any
    blocks: list[Block]


@pytest.fixture(scope="module", params=["dummy:tiny", "dummy:tiny-timestamped"])
def rig(request: pytest.FixtureRequest) -> Rig:
    model = load_model(request.param)
    return Rig(model, stock_model(request.param), encode_clip(model, make_frames(model, UNITS)))


async def notes(box: ThoughtBox, count: int) -> list[NoteRecord]:
    """How the next notes came about."""
    found: list[NoteRecord] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            piece = await box.get()
            if piece.done:
                assert piece.record is not None
                found.append(piece.record)
    return found


async def watch(s: Serving, recording: Recording, positions: TextPositions) -> tuple[ThoughtBox, list[Block]]:
    """A concurrent watcher, and the notes that it keeps."""
    kept: list[Block] = []
    engine = s.reasoner.engine
    keep = engine._watchers._keep

    def keep_too(block: Block) -> None:
        kept.append(block)
        keep(block)

    engine._watchers._keep = keep_too
    box = ThoughtBox(asyncio.get_running_loop(), 10**6)
    rules = Watching(
        mode=WatchMode.CONCURRENT, note_tokens=TOKENS, prompt=PROMPT, segment_units=FIRST, positions=positions
    )
    run = s.reasoner.streams.get(StreamId("cam")).run
    engine.watch(run, StreamId("cam"), rules, box)
    return box, kept


def arriving(s: Serving, blocks: Sequence[Block]) -> Callable[[int], None]:
    """Has one of these arrive after every few passes: before the next one, however busy the machine is."""
    loop, waiting = asyncio.get_running_loop(), list(blocks)

    def publish(block: Block, published: threading.Event) -> None:
        try:
            s.publish(block)
        finally:
            published.set()

    def arrive(count: int) -> None:
        if count % EVERY == 0 and waiting:
            published = threading.Event()
            loop.call_soon_threadsafe(publish, waiting.pop(0), published)
            assert published.wait(30)

    return arrive


def compare(
    rig: Rig,
    recording: Recording,
    records: Sequence[NoteRecord],
    kept: Sequence[Block],
    positions: TextPositions,
) -> None:
    """Every token of every note had the reference's logits."""
    prompt_tokens = len(rig.model.prompt.question_tokens(PROMPT))
    watcher = LiteralWatcher(rig.model, rig.stock, rig.blocks)
    passes, rows = iter(recording.passes), iter(recording.rows)
    for number, record in enumerate(records):
        own: list[tuple[int, ...]] = []
        while sum(map(len, own)) < prompt_tokens:
            own.append(next(passes))
        # The stamp, then a token a pass; the last one that was written never went through.
        stamp = kept[number].header.tokens - (len(record.token_ids) - 1)
        while sum(map(len, own)) < prompt_tokens + stamp + len(record.token_ids) - 1:
            own.append(next(passes))
        note = Written(
            passes=own,
            prompt_tokens=prompt_tokens,
            arrivals=[(arrival.token, arrival.numbers) for arrival in record.arrivals],
            notes=kept[:number],
            two_counters=positions is TextPositions.TWO_COUNTERS,
        )
        chosen = watcher.rewrite(note)[-len(record.token_ids) :]
        assert [int(row.argmax()) for row in chosen] == list(record.token_ids)
        for theirs in chosen:
            assert float((next(rows) - theirs).abs().max()) < TOLERANCE * float(theirs.abs().max())


@pytest.mark.parametrize("window", [UNITS, 4])
@pytest.mark.parametrize("positions", list(TextPositions))
async def test_notes_equal_a_replay_in_their_order_of_arrival(
    rig: Rig, positions: TextPositions, window: int
) -> None:
    recording = Recording(rig.model)
    view_tokens = window * rig.blocks[-1].header.tokens
    async with serve(recording, view_tokens=view_tokens, retrieve_blocks=0) as s:  # type: ignore[arg-type]
        await s.open()
        recording.on_pass = arriving(s, rig.blocks[1 + FIRST :])
        box, kept = await watch(s, recording, positions)
        s.publish(*rig.blocks[: 1 + FIRST])
        records = await notes(box, 2)
        s.reasoner.engine.unwatch(s.reasoner.streams.get(StreamId("cam")).run, box)
        recording.on_pass = lambda count: None
        await s.until(lambda: s.reasoner.engine.stats.watchers == s.reasoner.engine.stats.questions == 0)
        await s.idle()
    compare(rig, recording, records, kept, positions)
    assert all(len(record.arrivals) > 3 for record in records), "nothing arrived while notes were written"
    firsts = {arrival.numbers[0] for record in records for arrival in record.arrivals}
    assert (len(firsts) > 1) == (window < UNITS), "the window slides when it is smaller than the stream"


async def test_replay_after_half_of_the_blocks_left_memory_and_the_encoder_restarted(
    rig: Rig, tmp_path: Path
) -> None:
    recording = Recording(rig.model)
    ram = max(65_536, 5 * rig.blocks[1].header.payload_bytes)
    async with serve(recording, data_dir=str(tmp_path), ram_bytes=ram, retrieve_blocks=0) as s:  # type: ignore[arg-type]
        await s.open()
        for block in rig.blocks[: UNITS // 2]:
            s.publish(block)
            await s.until(lambda: s.reasoner.store.unwritten == 0)
        # Another encoder goes on where the first one was lost.
        await s.stub.OpenStream(reasoner_pb2.OpenStreamRequest(stream_id="cam", epoch=2))
        recording.on_pass = arriving(s, [dataclasses.replace(block) for block in rig.blocks[UNITS // 2 :]])
        box, kept = await watch(s, recording, TextPositions.ONE_LINE)
        records = await notes(box, 2)
        s.reasoner.engine.unwatch(s.reasoner.streams.get(StreamId("cam")).run, box)
        recording.on_pass = lambda count: None
        await s.until(lambda: s.reasoner.engine.stats.watchers == s.reasoner.engine.stats.questions == 0)
        await s.idle()
        held = s.reasoner.store.directory.stream(StreamId("cam"))
    compare(rig, recording, records, kept, TextPositions.ONE_LINE)
    assert sum(entry.ram is not None for entry in held) <= len(held) // 2
