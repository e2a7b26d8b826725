"""Pure. Every limit on what a client sends, and the checks that use them.

Each check raises the typed error that the client will see; none of them reads a picture's pixels, that is
the encoder's work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tandem.core.errors import BadMedia, BadQuestion, BadTimestamp, InvalidInput
from tandem.core.ids import NOTES_SUFFIX, is_stream_id, is_valid_id

MAX_PTS_US = 1 << 52
"""About 142 years; beyond it a float64 second could not hold a microsecond."""
MAX_FPS = 240.0
MAX_TEMPERATURE = 2.0
MAX_STOPS = 8
MAX_STOP_CHARS = 64
MAX_ANSWER_TOKENS = 8192
MAX_LATENCY_BUDGET_MS = 120_000
MAX_WORKERS = 64
"""Of any reasoner; each has its own, smaller limit."""
MAX_THOUGHT_TOKENS = 65_536
MAX_TEMPLATE_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may send; `Welcome.limits` tells it."""

    max_message_bytes: int = 16 * 1024 * 1024
    max_question_chars: int = 4000
    max_open_questions: int = 16
    max_picture_pixels: int = 1 << 25
    resume_seconds: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingValues:
    """Sampling as the client wrote it."""

    temperature: float = 0.0
    top_p: float = 0.0
    max_tokens: int = 0
    stop: Sequence[str] = ()


def check_stream_id(stream_id: str) -> None:
    """Raises `InvalidInput` unless it is a valid id."""
    if not is_stream_id(stream_id):
        raise InvalidInput(
            f"not a stream id: {stream_id[:80]!r} (expected 1 to 64 characters of [A-Za-z0-9._-], "
            f"the first a letter or digit, and not {NOTES_SUFFIX!r} at the end)"
        )


def check_rates(sample_fps: float, nominal_fps: float, min_fps: float = 0.0) -> None:
    """Raises `InvalidInput` unless all rates are 0 (default) or usable."""
    for name, value in (("sample_fps", sample_fps), ("nominal_fps", nominal_fps), ("min_fps", min_fps)):
        if not math.isfinite(value) or not 0 <= value <= MAX_FPS:
            raise InvalidInput(f"{name} is {value}: expected 0 (default) to {MAX_FPS:g} frames per second")
    if sample_fps and min_fps > sample_fps:
        raise InvalidInput(f"min_fps is {min_fps:g}, more than the {sample_fps:g} of sample_fps")


def check_question(limits: Limits, question_id: str, text: str, budget_ms: int) -> None:
    """Raises `BadQuestion` for an empty or overlong text, a bad id or an absurd budget."""
    if not is_valid_id(question_id):
        raise BadQuestion(
            f"not a question id: {question_id[:80]!r} (expected 1 to 64 characters of [A-Za-z0-9._-])"
        )
    if not text.strip():
        raise BadQuestion("the question is empty")
    if len(text) > limits.max_question_chars:
        raise BadQuestion(
            f"the question has {len(text)} characters, at most {limits.max_question_chars} are allowed"
        )
    if budget_ms > MAX_LATENCY_BUDGET_MS:
        raise BadQuestion(f"latency_budget_ms is {budget_ms}, at most {MAX_LATENCY_BUDGET_MS} are allowed")


def check_sampling(values: SamplingValues) -> None:
    """Raises `BadQuestion` that names the value out of range."""
    if not math.isfinite(values.temperature) or not 0 <= values.temperature <= MAX_TEMPERATURE:
        raise BadQuestion(f"temperature is {values.temperature}: expected 0 to {MAX_TEMPERATURE:g}")
    if not math.isfinite(values.top_p) or not 0 <= values.top_p <= 1:
        raise BadQuestion(f"top_p is {values.top_p}: expected 0 (off) to 1")
    if values.max_tokens > MAX_ANSWER_TOKENS:
        raise BadQuestion(f"max_tokens is {values.max_tokens}, at most {MAX_ANSWER_TOKENS} are allowed")
    if len(values.stop) > MAX_STOPS:
        raise BadQuestion(f"{len(values.stop)} stop texts, at most {MAX_STOPS} are allowed")
    for stop in values.stop:
        if not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise BadQuestion(f"a stop text has {len(stop)} characters, expected 1 to {MAX_STOP_CHARS}")


def check_workers(count: int, max_tokens: int, template: str, samplings: int) -> None:
    """Raises `BadQuestion` for what no reasoner takes; which templates there are only the reasoner knows."""
    if not 1 <= count <= MAX_WORKERS:
        raise BadQuestion(f"workers.count is {count}: expected 1 to {MAX_WORKERS}")
    if max_tokens * count > MAX_THOUGHT_TOKENS:
        raise BadQuestion(
            f"{count} workers of {max_tokens} tokens are over the limit of {MAX_THOUGHT_TOKENS} together"
        )
    if len(template) > MAX_TEMPLATE_CHARS:
        raise BadQuestion(f"workers.template has {len(template)} characters, at most {MAX_TEMPLATE_CHARS}")
    if samplings not in {0, 1, count}:
        raise BadQuestion(
            f"workers.sampling has {samplings} entries for {count} workers: expected one each, or one"
        )


def check_pts(pts_us: int, last_pts_us: int) -> None:
    """Raises `BadTimestamp` for a time that goes back or is out of range."""
    if not 0 <= pts_us <= MAX_PTS_US:
        raise BadTimestamp(f"pts_us is {pts_us}: expected 0 to {MAX_PTS_US}")
    if pts_us < last_pts_us:
        raise BadTimestamp(f"pts goes back from {last_pts_us} us to {pts_us} us; the picture is left out")


def check_data(limits: Limits, size_bytes: int) -> None:
    """Raises `BadMedia` for nothing, or too much."""
    if size_bytes == 0:
        raise BadMedia("zero bytes of media")
    if size_bytes > limits.max_message_bytes:
        raise BadMedia(f"{size_bytes} bytes in one message, at most {limits.max_message_bytes} are allowed")


def check_raw_picture(limits: Limits, width: int, height: int, size_bytes: int) -> None:
    """Raises `BadMedia` unless a raw RGB picture's sides and bytes agree and are within limits."""
    if width * height > limits.max_picture_pixels:
        raise BadMedia(
            f"a picture of {width}x{height} is over the limit of {limits.max_picture_pixels} pixels"
        )
    if width == 0 or height == 0 or size_bytes != 3 * width * height:
        raise BadMedia(f"{size_bytes} bytes are not {width}x{height} pixels of 3 bytes")
