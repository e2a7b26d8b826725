"""Pure: what service is wanted, and whether a run's measures show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tandem.core.errors import InvalidInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Service-level goals; None: no such goal. Times of a question count from when it was due."""

    first_token_ms: float | None = 1000.0
    """Of a question: its first token."""
    answer_ms: float | None = 5000.0
    """Of a question: its whole answer."""
    inter_token_ms: float | None = None
    """Of a question: the mean time from token to token."""
    staleness_ms: float | None = None
    """Of a question: how far what the answer saw was behind the live edge when it was asked."""
    attainment: float = 0.95
    """Share of attempted questions that meet all of the above."""
    frame_lag_ms: float | None = 2000.0
    """95th percentile of how far memory is behind the live edge."""
    dropped: float | None = 0.001
    """Share of stream time that was lost in gaps."""
    refused_streams: int | None = 0
    """Streams that could not be opened or kept."""
    accuracy: float | None = None
    """Share of marked answers that are right."""
    late_ms: float = 50.0
    """99th percentile of how late the generator itself was; beyond it the run says nothing."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal of a whole run."""

    goal: str
    value: float | None
    """None: nothing was measured, which does not meet a goal."""
    bound: float
    is_least: bool
    """True when the bound is the least that is wanted, False when it is the most."""

    @property
    def is_met(self) -> bool:
        """True when the measure keeps to the bound."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.is_least else self.value <= self.bound

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "goal": self.goal,
            "value": self.value,
            "wanted": "at least" if self.is_least else "at most",
            "bound": self.bound,
            "met": self.is_met,
        }


def goals_from_texts(texts: list[str]) -> Goals:
    """Goals of ``NAME=VALUE``; ``NAME=none`` takes one away. Raises `InvalidInput` that names the goals."""
    kinds = {item.name: item for item in dataclasses.fields(Goals)}
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name not in kinds or not equals:
            raise InvalidInput(f"no goal {text!r}; give NAME=VALUE with one of {', '.join(kinds)}")
        may_be_none = "None" in str(kinds[name].type)
        try:
            if value == "none" and may_be_none:
                values[name] = None
            else:
                values[name] = int(value) if name == "refused_streams" else float(value)
        except ValueError as error:
            raise InvalidInput(f"the goal {name} needs a number, not {value!r}") from error
        if values[name] is not None and not 0 <= values[name] < 1e9:
            raise InvalidInput(f"the goal {name} is {value}: expected a number from 0")
    return Goals(**values)


def is_good(question: dict[str, Any], goals: Goals) -> bool:
    """True for a question (an event of the log) that was answered within every goal."""
    if question["outcome"] != "answered" or question["first_token"] is None:
        return False
    at_s, gaps_s = question["at"], question["gaps_s"]
    mean_gap_s = sum(gaps_s) / len(gaps_s) if gaps_s else 0.0
    return all(
        bound_ms is None or value_s * 1000 <= bound_ms
        for value_s, bound_ms in (
            (question["first_token"] - at_s, goals.first_token_ms),
            (question["t"] - at_s, goals.answer_ms),
            (mean_gap_s, goals.inter_token_ms),
            (staleness_s(question), goals.staleness_ms),
        )
    )


def staleness_s(question: dict[str, Any]) -> float:
    """How far the answer's knowledge was behind the live edge when it was due, in seconds."""
    behind_s: float = question["at"] - question["media_s"] - question["watermark_s"]
    return max(0.0, behind_s)


def judge(measures: dict[str, Any], goals: Goals) -> list[Verdict]:
    """What became of each goal of the whole run."""
    return [verdict for verdict in _verdicts(measures, goals) if verdict is not None]


def _verdicts(measures: dict[str, Any], goals: Goals) -> Iterator[Verdict | None]:
    questions, frames, streams = measures["questions"], measures["frames"], measures["streams"]
    if questions["attempted"]:
        yield Verdict("attainment", questions["attainment"], goals.attainment, is_least=True)
    yield _most("frame_lag_ms", frames["lag_ms"].get("p95"), goals.frame_lag_ms)
    yield _most("dropped", frames["dropped_share"], goals.dropped)
    yield _most("refused_streams", streams["refused"] + streams["failed"], goals.refused_streams)
    if goals.accuracy is not None:
        yield Verdict("accuracy", measures["accuracy"]["share"], goals.accuracy, is_least=True)


def _most(name: str, value: float | None, bound: float | None) -> Verdict | None:
    return None if bound is None else Verdict(name, value, float(bound), is_least=False)
