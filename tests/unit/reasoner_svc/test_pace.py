"""When watchers step back: as long as their stream comes late."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import torch

from kv_transfer.block import Block
from reasoner_svc.decode.question import Phase
from reasoner_svc.decode.schedule import FIRST_TURN, ScheduleLimits, Waiting, plan_tick
from reasoner_svc.notes.box import ThoughtBox
from reasoner_svc.notes.pace import MOST_HELD, Pace
from reasoner_svc.notes.watcher import Watcher
from reasoner_svc.view.run import StreamRun
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.core.watching import Watching, WatchMode
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.test_notes import SEGMENT, TOKENS, UNITS


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def test_a_watcher_steps_back_while_its_stream_comes_late() -> None:
    pace = Pace()

    def arrive(second: int, late_s: float) -> bool:
        pace.arrived(100 + second + late_s, TimeRange((second - 1) * 10**6, second * 10**6))
        return pace.is_late

    assert not pace.is_late
    assert not any(arrive(second, 0.1 * (second % 3)) for second in range(20)), "half a unit is no delay"
    pace.passed(120.0, 120.1)
    assert not pace.rests(120.2)
    assert arrive(21, 0.9)
    assert pace.rests(120.9)
    assert not pace.rests(121.01), "a stream that stays late is watched a tenth of the time"
    pace.passed(121.1, 121.2)
    assert pace.rests(121.3)
    assert not arrive(22, 0.2)
    assert not pace.rests(121.3), "it has caught up"


def test_a_view_that_stands_still_is_not_held_for_ever() -> None:
    """What a note sees stays on the device until it is written: on a stream that is late for good, too."""
    pace = Pace()

    def arrive(second: int, late_s: float) -> None:
        pace.arrived(second + late_s, TimeRange((second - 1) * 10**6, second * 10**6))

    arrive(1, 0.0)
    pace.hold()
    for second in range(2, 2 + MOST_HELD):
        arrive(second, 5.0)
        pace.passed(second, second + 10.0)
        assert pace.rests(second)
    arrive(2 + MOST_HELD, 5.0)
    assert not pace.rests(2 + MOST_HELD)
    pace.let_go()
    assert pace.rests(2 + MOST_HELD), "the next one waits before it begins"


def test_a_stream_that_has_ended_is_not_late() -> None:
    pace = Pace()
    for second, late_s in ((1, 0.0), (2, 5.0)):
        pace.arrived(second + late_s, TimeRange((second - 1) * 10**6, second * 10**6))
    pace.passed(7.0, 8.0)
    assert pace.rests(9.0)
    pace.ended()
    assert not pace.rests(9.0)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("mode", [mode for mode in WatchMode if mode is not WatchMode.OFF])
async def test_every_watcher_that_holds_no_block_back_keeps_the_pace(
    model: VisionLanguageModel, blocks: list[Block], mode: WatchMode, ends: bool
) -> None:
    """Interleaved holds blocks back by definition: resting would make them later still."""
    now_s, told = [100.0], []
    run = StreamRun(model, StreamId("cam"), 10**6, None, 10**6)
    box = ThoughtBox(asyncio.get_running_loop(), 10**6)
    rules = Watching(mode=mode, segment_units=SEGMENT, note_tokens=TOKENS, prompt="and now?")
    watcher = Watcher(model, StreamId("cam"), 1, run, rules, box, lambda: now_s[0], told.append)

    def arrive(block: Block, late_s: float) -> None:
        now_s[0] = max(now_s[0], 100.0 + block.header.time.end_us / 10**6 + late_s)
        run.append(block)
        watcher.saw(block.header)

    for block in blocks[: 1 + SEGMENT]:
        arrive(block, 0.0)
    written = watcher.begin(lambda: 1)
    assert written is not None
    assert not written.waiting.rests
    written.begin(run)
    [step] = written.prepare(8)
    with torch.inference_mode():
        written.advance([model.forward(step.embeds, step.positions, step.view, capture=step.capture)])
    arrive(blocks[1 + SEGMENT], 0.0)
    assert not written.rests, "nothing is late"
    written.prepare(1)
    arrive(blocks[2 + SEGMENT], 3.0)
    with torch.inference_mode():
        written.advance([model.forward(step.embeds, step.positions, step.view, capture=step.capture)])
    assert written.rests is written.waiting.rests is (mode is not WatchMode.INTERLEAVED)
    if ends:
        watcher.finish(lambda last: None)
    else:
        watcher.leave()
    assert not written.rests, "somebody waits for the last note, and who watches no more hears of no block"


def test_a_watcher_that_rests_takes_no_tick() -> None:
    limits = ScheduleLimits(max_running=4, prefill_chunk=8, tick_tokens=16)
    watcher = Waiting(1, Phase.DECODING, 0, watcher=True)
    assert plan_tick([watcher], FIRST_TURN, limits).items
    assert not plan_tick([replace(watcher, rests=True)], FIRST_TURN, limits).items
