"""Pure. What was seen of a scenario, held against what was declared: every difference is a finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.faults.table import RIGHT, Scenario
from tandem.core.timeline import MICROSECONDS, Gap, GapReason, TimeRange, merge_ranges

LOSSES = frozenset({GapReason.EVICTED, GapReason.REASONER_LOST, GapReason.ORCHESTRATOR_LOST})
"""Reasons of gaps that take back what was there."""


LOAD_S = 6.0
"""The start of a process with its model that declared times reckon with; more is not held against them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of one question."""

    text: str
    known: str
    right: bool
    error: str
    """Code of the error that it ended with; empty: it was answered."""
    gaps: tuple[Gap, ...] = ()
    seen: tuple[TimeRange, ...] = ()
    """Stream times of what the answer rests on."""
    asked_us: int = 0
    watermark_us: int = 0
    lost_in_recall: int = 0

    @property
    def is_told(self) -> bool:
        """It says itself that it could not know everything."""
        behind = self.watermark_us < self.asked_us
        return bool(self.error or self.gaps or self.lost_in_recall or behind)

    @property
    def is_wrong(self) -> bool:
        """A text that is not the known one, and nothing that says why."""
        return not self.right and not self.is_told


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that was observed of one scenario."""

    replies: Sequence[Reply]
    gaps: Sequence[Gap]
    """Of the stream, at its end."""
    durable_us: int
    """What was on stable storage when it was struck."""
    end_us: int
    """What was pushed."""
    watermark_us: int
    spoiled: bool
    detect_s: float | None
    resume_s: float | None
    load_s: float | None
    """Of that, the start of a process with its model."""
    bystander: Reply | None
    left: Sequence[str]
    found: Sequence[str] = ()
    """What steps themselves found wrong."""
    ended: str = ""
    """Code of the error that the stream ended with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One scenario's outcome."""

    scenario: str
    findings: tuple[str, ...]
    """Every difference from what was declared; empty: it ended as declared."""
    wrong_answers: int
    lost_durable: int
    detect_s: float | None = None
    resume_s: float | None = None
    load_s: float | None = None
    skipped: str = ""
    """Why it could not be run here."""
    answers: int = field(default=0)

    @property
    def passed(self) -> bool:
        """It ended as declared."""
        return not self.findings and not self.skipped


def judge(scenario: Scenario, seen: Seen, patience: float = 1.0) -> Verdict:
    """Hold what was seen against the row. `patience` stretches the times that are declared."""
    lost = 0 if seen.spoiled else lost_durable(seen.gaps, seen.durable_us)
    wrong = [reply for reply in seen.replies if reply.is_wrong]
    findings = list(seen.found)
    findings += [f"wrong: {reply.text!r} for {reply.known!r}" for reply in wrong]
    findings += [f"{lost} durable blocks lost"] * bool(lost)
    findings += _answers(scenario, seen.replies)
    findings += _gaps(scenario, seen)
    findings += _times(scenario, seen, patience)
    if seen.bystander is not None and not seen.bystander.right:
        findings.append(f"the stream beside it was told {seen.bystander.text or seen.bystander.error!r}")
    findings += seen.left
    return Verdict(
        scenario=scenario.name,
        findings=tuple(findings),
        wrong_answers=len(wrong) + bool(seen.bystander and seen.bystander.is_wrong),
        lost_durable=lost,
        detect_s=seen.detect_s,
        resume_s=seen.resume_s,
        load_s=seen.load_s,
        answers=len(seen.replies),
    )


def lost_durable(gaps: Sequence[Gap], durable_us: int) -> int:
    """Blocks of a second that were on stable storage and are gone."""
    lost_us = sum(
        min(gap.range.end_us, durable_us) - gap.range.start_us
        for gap in gaps
        if gap.reason in LOSSES and gap.range.start_us < durable_us
    )
    return -(-lost_us // MICROSECONDS)


def unexplained_us(reply: Reply) -> int:
    """Stream time before the answer's watermark that is neither in its evidence nor told as a gap."""
    known = merge_ranges([*reply.seen, *(gap.range for gap in reply.gaps)])
    end_us = min(reply.asked_us, reply.watermark_us) // MICROSECONDS * MICROSECONDS
    covered = sum(max(min(part.end_us, end_us) - part.start_us, 0) for part in known)
    return max(end_us - covered, 0)


def _answers(scenario: Scenario, replies: Sequence[Reply]) -> list[str]:
    if scenario.answers != RIGHT:
        return []
    findings = [
        f"asked for {reply.known!r}: {reply.error or f'told {reply.text!r}'}"
        for reply in replies
        if not reply.right and not reply.is_wrong and reply.error not in scenario.errors
    ]
    return findings + [
        f"{unexplained_us(reply) / MICROSECONDS:g} s are missing and not told in the answer {reply.text!r}"
        for reply in replies
        if not reply.error and unexplained_us(reply)
    ]


def _gaps(scenario: Scenario, seen: Seen) -> list[str]:
    findings = [
        f"a gap of {gap.range.duration_us / MICROSECONDS:g} s: {gap.reason.value}"
        for gap in seen.gaps
        if gap.reason.value not in scenario.gaps
    ]
    if seen.ended != scenario.refused:
        findings.append(f"the stream ended with {seen.ended or 'no error'}, not {scenario.refused or 'none'}")
    if not seen.ended and seen.watermark_us < seen.end_us:
        findings.append(f"watched up to {seen.watermark_us} us of {seen.end_us} us")
    return findings


def _times(scenario: Scenario, seen: Seen, patience: float) -> list[str]:
    if all(step.at == scenario.frames for step in scenario.steps):
        return []  # nothing comes after it
    if seen.resume_s is None:
        return ["it did not resume"]
    most_s = scenario.resume_s * patience + max((seen.load_s or 0.0) - LOAD_S, 0.0)
    return [f"resumed after {seen.resume_s:.1f} s, {most_s:.1f} s are declared"] * (seen.resume_s > most_s)
