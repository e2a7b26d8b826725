"""Pure. What the journal holds of a stream's standing questions: to and from JSON, bounded and checked."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

from tandem.core.standing import MAX_CHECKS, MAX_STANDING, Standing

MAX_KEPT = 16
"""Alerts that wait for a client that is not there; older ones are dropped."""
MAX_MESSAGE_BYTES = 32 * 1024
"""Of one question or alert. One that is larger is not written: the journal stays small."""
_MAX_COUNT = 2**32 - 1
"""What the wire counts to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingRecord:
    """One standing question."""

    question: bytes
    """The message."""
    state: Standing
    checks: int
    """Checks that were begun."""
    checked_us: int
    """Watermark that the last one began at; -1: there was none."""


def standing_to_json(records: Iterable[StandingRecord]) -> list[object]:
    """A list for the journal."""
    return [
        [
            base64.b64encode(record.question).decode(),
            record.checks,
            record.checked_us,
            record.state.is_on,
            record.state.in_a_row,
            record.state.onsets,
            record.state.alerted_us,
        ]
        for record in records
        if len(record.question) <= MAX_MESSAGE_BYTES
    ]


def standing_from_json(data: object) -> tuple[StandingRecord, ...]:
    """What was written. Raises ValueError or TypeError for anything that never was."""
    return tuple(_record(row) for row in _rows(data, MAX_STANDING))


def alerts_to_json(alerts: Iterable[bytes]) -> list[str]:
    """A list for the journal."""
    return [base64.b64encode(alert).decode() for alert in alerts if len(alert) <= MAX_MESSAGE_BYTES]


def alerts_from_json(data: object) -> tuple[bytes, ...]:
    """What was written. Raises ValueError or TypeError for anything that never was."""
    return tuple(_message(alert) for alert in _rows(data, MAX_KEPT))


def _record(row: object) -> StandingRecord:
    question, checks, checked_us, is_on, in_a_row, onsets, alerted_us = _rows(row, 7)
    if not isinstance(is_on, bool):
        raise TypeError(f"is_on is {is_on!r}")
    return StandingRecord(
        question=_message(question),
        checks=_int(checks, 0),
        checked_us=_int(checked_us, -1),
        state=Standing(
            is_on=is_on,
            in_a_row=_int(in_a_row, 0, MAX_CHECKS),
            onsets=_int(onsets, 0, _MAX_COUNT),
            alerted_us=None if alerted_us is None else _int(alerted_us, 0),
        ),
    )


def _rows(data: object, most: int) -> list[object]:
    if not isinstance(data, list):
        raise TypeError(f"{type(data).__name__} is not a list")
    if len(data) > most:
        raise ValueError(f"{len(data)} entries, at most {most}")
    return data


def _message(data: object) -> bytes:
    if not isinstance(data, str):
        raise TypeError(f"{type(data).__name__} is not a text")
    message = base64.b64decode(data, validate=True)
    if len(message) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message of {len(message)} bytes, at most {MAX_MESSAGE_BYTES}")
    return message


def _int(value: object, least: int, most: int = 2**63 - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
    return value
