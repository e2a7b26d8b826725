"""What the accuracy benchmark asks of long streams, by a model whose weights do not matter."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench._streams import FULL, RECALLED, Answered, Parts, ask_all, encode
from bench.accuracy import held_out_stream, stream_rows, wilson
from tandem.core.timeline import MICROSECONDS
from tandem.shapes.questions import Question
from tandem.shapes.streams import draw_stream
from tandem.wire.gen.tandem.v1 import types_pb2

FRAMES, RECENT = 24, 4


@pytest.fixture(scope="module")
def parts() -> Parts:
    return Parts("dummy:tiny", RECENT)


def test_every_frame_becomes_a_block(parts: Parts) -> None:
    blocks = [block for run in encode(parts, draw_stream(0, FRAMES)) for block in run]
    assert [block.key.number for block in blocks] == list(range(FRAMES + 1))
    starts = [block.header.time.start_us for block in blocks[1:]]
    assert starts == [second * MICROSECONDS for second in range(FRAMES)]


async def test_recalling_everything_answers_as_with_everything_in_view(parts: Parts) -> None:
    assert FRAMES - RECENT <= RECALLED
    stream, layers = draw_stream(0, FRAMES), parts.model.layout.layers
    answered = await ask_all(parts, stream, full=True)
    assert set(answered) == {"rekv", "recent", "uniform", FULL}
    assert all([a.question for a in answers] == [*stream.questions] for answers in answered.values())
    for strategy in ("rekv", "uniform"):
        assert [a.text for a in answered[strategy]] == [a.text for a in answered[FULL]]
        assert all(a.blocks_loaded == layers * (FRAMES - RECENT) for a in answered[strategy])
        assert all(a.evidence.loaded_bytes > 0 for a in answered[strategy])
    for answers in (answered["recent"], answered[FULL]):
        assert not any(a.blocks_loaded or a.evidence.loaded_bytes for a in answers)
    for answer in answered["recent"]:
        inside = any(frame >= FRAMES - RECENT for frame in answer.question.evidence)
        assert answer.layers(layers) == float(inside)
    assert all(a.layers(layers) == 1.0 for a in answered[FULL] if a.question.evidence)


def test_the_part_of_the_layers_is_that_of_the_best_frame() -> None:
    def at(second: int) -> types_pb2.TimeRange:
        return types_pb2.TimeRange(start_us=second * MICROSECONDS, end_us=(second + 1) * MICROSECONDS)

    evidence = types_pb2.Evidence(
        seen=[at(1), at(2), at(9)],
        recalled=[types_pb2.Recalled(time=at(1), layers=1), types_pb2.Recalled(time=at(2), layers=3)],
    )

    def layers(*frames: int) -> float:
        return Answered(Question("when", "when?", "00:01", 10, frames), "", evidence).layers(4)

    assert (layers(), layers(5), layers(1), layers(1, 2), layers(2, 9)) == (0.0, 0.0, 0.25, 0.75, 1.0)


async def test_clips_that_begin_later_go_through_the_parts(parts: Parts) -> None:
    late = next(s for s in (held_out_stream(seed, 4) for seed in range(9)) if s.timeline.start)
    blocks = [block for run in encode(parts, late) for block in run]
    assert blocks[1].header.time.start_us == late.timeline.start * MICROSECONDS
    asked = [question for question in late.questions if question.evidence][:2]
    answered = await ask_all(parts, replace(late, questions=tuple(asked)), full=True)
    assert [answer.layers(parts.model.layout.layers) for answer in answered[FULL]] == [1.0, 1.0]


def test_the_interval_is_wilsons() -> None:
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_rows_name_strategy_frames_and_kind(parts: Parts) -> None:
    rows = {row["metric"]: row for row in stream_rows(parts, [FRAMES], 1, "_r4")}
    assert "accuracy_full_r4_24" not in rows  # it has no newest blocks of its own
    for strategy in (FULL, "rekv_r4", "recent_r4", "uniform_r4"):
        for metric in ("accuracy", "recall", "bytes_loaded", "blocks_loaded"):
            assert f"{metric}_{strategy}_{FRAMES}" in rows
        assert f"accuracy_{strategy}_{FRAMES}_shown_at" in rows
    assert rows[f"blocks_loaded_rekv_r4_{FRAMES}"]["value"] == FRAMES - RECENT
    assert rows[f"recall_layers_rekv_r4_{FRAMES}"]["value"] == 1.0
