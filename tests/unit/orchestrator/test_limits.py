"""Every limit on what a client sends, at and over its edge."""

import math

import pytest

from orchestrator.limits import (
    MAX_PTS_US,
    Limits,
    SamplingValues,
    check_data,
    check_pts,
    check_question,
    check_rates,
    check_raw_picture,
    check_sampling,
    check_stream_id,
    check_workers,
)
from tandem.core.errors import BadMedia, BadQuestion, BadTimestamp, InvalidInput

LIMITS = Limits(max_question_chars=10, max_message_bytes=100, max_picture_pixels=1000)


@pytest.mark.parametrize("stream_id", ["a", "cam-1.front_left", "x" * 64])
def test_ids(stream_id: str) -> None:
    check_stream_id(stream_id)


@pytest.mark.parametrize("stream_id", ["", "x" * 65, "../etc", "a b", "é", ".hidden", "a\0"])
def test_bad_ids(stream_id: str) -> None:
    with pytest.raises(InvalidInput):
        check_stream_id(stream_id)


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, 241.0])
def test_bad_rates(rate: float) -> None:
    check_rates(0.0, 25.0)
    with pytest.raises(InvalidInput, match="sample_fps"):
        check_rates(rate, 0.0)
    with pytest.raises(InvalidInput, match="nominal_fps"):
        check_rates(0.0, rate)


def test_questions() -> None:
    check_question(LIMITS, "q", "x" * 10, 0)
    for question_id, text, budget in (
        ("", "what", 0),
        ("q", "", 0),
        ("q", " \n\t", 0),
        ("q", "x" * 11, 0),
        ("q", "what", 10_000_000),
    ):
        with pytest.raises(BadQuestion):
            check_question(LIMITS, question_id, text, budget)


@pytest.mark.parametrize(
    "values",
    [
        SamplingValues(temperature=-0.1),
        SamplingValues(temperature=2.1),
        SamplingValues(temperature=math.nan),
        SamplingValues(top_p=1.1),
        SamplingValues(top_p=math.nan),
        SamplingValues(max_tokens=10**9),
        SamplingValues(stop=["x"] * 9),
        SamplingValues(stop=["x" * 65]),
        SamplingValues(stop=[""]),
    ],
)
def test_bad_sampling(values: SamplingValues) -> None:
    check_sampling(SamplingValues(temperature=2.0, top_p=1.0, max_tokens=8192, stop=["x" * 64] * 8))
    with pytest.raises(BadQuestion):
        check_sampling(values)


def test_times() -> None:
    check_pts(5, 5)
    check_pts(MAX_PTS_US, 0)
    for pts, last in ((4, 5), (-1, -10), (MAX_PTS_US + 1, 0)):
        with pytest.raises(BadTimestamp):
            check_pts(pts, last)


def test_media() -> None:
    check_data(LIMITS, 100)
    check_raw_picture(LIMITS, 10, 3, 90)
    for size in (0, 101):
        with pytest.raises(BadMedia):
            check_data(LIMITS, size)
    for width, height, size in ((10, 3, 89), (0, 0, 0), (100, 100, 30_000)):
        with pytest.raises(BadMedia):
            check_raw_picture(LIMITS, width, height, size)


def test_workers() -> None:
    check_workers(8, 1000, "english", 8)
    check_workers(1, 0, "", 0)
    for count, tokens, template, samplings in (
        (0, 0, "", 0),
        (65, 0, "", 0),
        (8, 1 << 20, "", 0),
        (2, 0, "x" * 65, 0),
        (3, 0, "", 2),
    ):
        with pytest.raises(BadQuestion, match="workers"):
            check_workers(count, tokens, template, samplings)
