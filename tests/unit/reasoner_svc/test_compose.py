"""Which blocks a question sees, and where they stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasoner_svc.view.compose import Span, ViewPlan, choose, compose
from tandem.core.errors import DataLost, Internal, WrongState
from tandem.core.ids import StreamId
from tandem.core.timeline import TimeRange
from tandem.vlm.positions import AdvanceRules, OneVideo, VideoPerUnit
from tests.unit.reasoner_svc.making import SECOND_US, make_header

CAM = StreamId("cam")
SINK = 5
RULES = AdvanceRules(text_after_video="spatial", generation="beyond", units_interval=2.0)
PLACEMENTS = {
    "native": lambda: OneVideo(RULES, SINK, None),
    "timestamped": lambda: VideoPerUnit(RULES, SINK, None),
}


def spans_of(count: int, *, layout: str, first: int = 1, tokens: int = 4) -> list[Span]:
    """Blocks `first` to `count` of a stream whose run placed all of them."""
    placement = PLACEMENTS[layout]()
    spans = []
    for number in range(1, count + 1):
        header = make_header(number, tokens=tokens)
        base = placement.place_units([header.geometry])[0]
        spans.append(
            Span(
                stream=CAM,
                number=number,
                time=header.time,
                geometry=header.geometry,
                first_token=(number - 1) * tokens,
                base=base,
            )
        )
    return spans[first - 1 :]


def view(spans: list[Span], *, layout: str, budget_tokens: int = 10**6, as_of_us: int = 0) -> ViewPlan:
    return compose(
        spans,
        PLACEMENTS[layout](),
        stream=CAM,
        sink_tokens=SINK,
        prompt_tokens=7,
        budget_tokens=budget_tokens,
        as_of_us=as_of_us,
    )


@pytest.fixture(params=PLACEMENTS)
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_a_whole_stream_stands_where_the_run_put_it(layout: str) -> None:
    plan = view(spans_of(3, layout=layout), layout=layout)
    assert plan.run_base == (0, 0, 0)
    assert (plan.first_token, plan.end_token) == (0, 12)
    assert plan.numbers == (1, 4)
    assert plan.context_tokens == SINK + 12
    assert (plan.blocks, plan.watermark_us) == (3, 3 * SECOND_US)
    assert plan.evidence == (TimeRange(0, 3 * SECOND_US),)


def test_a_view_without_its_front_looks_like_a_stream_that_began_later(layout: str) -> None:
    late = view(spans_of(5, layout=layout, first=4), layout=layout)
    fresh = view(spans_of(2, layout=layout), layout=layout)
    assert late.question_base == fresh.question_base
    assert late.answer_start == fresh.answer_start
    assert late.context_tokens == fresh.context_tokens
    late_spans, fresh_spans = spans_of(5, layout=layout, first=4), spans_of(2, layout=layout)
    for moved, there in zip(late_spans, fresh_spans, strict=True):
        assert tuple(a + b for a, b in zip(moved.base, late.run_base, strict=True)) == there.base
    assert late.evidence == (TimeRange(3 * SECOND_US, 5 * SECOND_US),)


def test_the_native_layout_moves_time_only() -> None:
    assert view(spans_of(5, layout="native", first=4), layout="native").run_base == (-6, 0, 0)


def test_the_question_sees_nothing_of_later_than_it_was_asked(layout: str) -> None:
    plan = view(spans_of(5, layout=layout), layout=layout, as_of_us=2 * SECOND_US + 1)
    assert plan.numbers == (1, 4), "the third block starts at 2 s"
    plan = view(spans_of(5, layout=layout), layout=layout, as_of_us=2 * SECOND_US)
    assert plan.numbers == (1, 3)
    assert plan.watermark_us == 2 * SECOND_US
    assert plan.end_token == 8


def test_gaps_show_in_the_evidence(layout: str) -> None:
    spans = spans_of(4, layout=layout)
    spans[2:] = [
        replace(s, time=TimeRange(s.time.start_us + SECOND_US, s.time.end_us + SECOND_US)) for s in spans[2:]
    ]
    assert view(spans, layout=layout).evidence == (
        TimeRange(0, 2 * SECOND_US),
        TimeRange(3 * SECOND_US, 5 * SECOND_US),
    )


def test_no_video_yet(layout: str) -> None:
    with pytest.raises(WrongState, match="no video yet"):
        view([], layout=layout)
    late = [replace(s, time=TimeRange(9 * SECOND_US, 10 * SECOND_US)) for s in spans_of(1, layout=layout)]
    with pytest.raises(WrongState, match="no video yet"):
        view(late, layout=layout, as_of_us=SECOND_US)


def test_what_was_asked_about_has_left_the_view(layout: str) -> None:
    with pytest.raises(DataLost, match=r"goes back to 00:03\.0"):
        view(spans_of(5, layout=layout, first=4), layout=layout, as_of_us=2 * SECOND_US)


def test_a_foreign_block_is_never_composed(layout: str) -> None:
    spans = spans_of(3, layout=layout)
    spans[1] = replace(spans[1], stream=StreamId("other"))
    with pytest.raises(Internal, match="foreign"):
        view(spans, layout=layout)


def test_a_hole_in_the_run_is_never_composed(layout: str) -> None:
    spans = spans_of(3, layout=layout)
    del spans[1]
    with pytest.raises(Internal):
        view(spans, layout=layout)


@given(count=st.integers(1, 12), budget=st.integers(0, 60), as_of_s=st.integers(0, 13))
def test_the_newest_that_fit(count: int, budget: int, as_of_s: int) -> None:
    spans = spans_of(count, layout="timestamped")
    chosen = choose(spans, budget_tokens=budget, as_of_us=as_of_s * SECOND_US)
    visible = [s for s in spans if not as_of_s or s.time.start_us < as_of_s * SECOND_US]
    expected = visible[-max(budget // 4, 1) :]
    assert list(chosen) == expected
