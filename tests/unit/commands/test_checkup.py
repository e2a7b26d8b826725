"""What the doctor says of services and streams: what is wrong, why, and what to do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tandem.client.overview import AdmissionDecision, BuildInfo, ScalingDecision, ServiceStatus, StreamSummary
from tandem.client.types import ModelInfo, Progress
from tandem.commands.checkup import (
    decision_findings,
    gap_words,
    release_findings,
    scaling_findings,
    service_findings,
    stream_findings,
)
from tandem.commands.findings import Finding, Mark
from tandem.commands.streams import reasons
from tandem.core.timeline import Gap, GapReason, TimeRange

SECOND = 1_000_000
SERVICE = ServiceStatus(
    name="encoder-0",
    role="encoder",
    address="127.0.0.1:1",
    state="ready",
    build=BuildInfo(version="0.2.0", boot_id="b", pid=1),
    model=ModelInfo(source="default", fingerprint="f" * 32, native_fps=1.0),
    restarts=0,
    heartbeat_age_ms=300.0,
    streams=2,
    details={"units_waiting": "3", "rss_bytes": str(300 << 20), "metrics": "127.0.0.1:7422"},
)


def stream(**changes: Any) -> StreamSummary:
    progress = Progress(
        received_us=changes.pop("received_us", 10 * SECOND),
        watermark_us=9 * SECOND,
        durable_watermark_us=0,
        lag_ms=20.0,
        gaps=changes.pop("gaps", ()),
        safe_position=0,
        blocks=9,
        rate_reason=changes.pop("rate_reason", ""),
    )
    whole: dict[str, Any] = {
        "stream_id": "door",
        "state": "live",
        "progress": progress,
        "encoder": "encoder-0",
        "reasoner": "reasoner-0",
        "open_questions": 0,
        "sample_fps": 1.0,
        "age_s": 60.0,
        "backlog_bytes": 1 << 20,
        "attached": True,
    }
    return StreamSummary(**whole | changes)


def marks(findings: list[Finding]) -> list[Mark]:
    return [finding.mark for finding in findings]


def test_why_a_service_does_not_start_is_said() -> None:
    (plain,) = service_findings(replace(SERVICE, state="starting"))
    assert plain.mark is Mark.OK
    (pending,) = service_findings(replace(SERVICE, state="starting", reason="Unschedulable: no GPU"))
    assert pending.mark is Mark.NOTE
    assert "is starting" in pending.what
    assert "Unschedulable: no GPU" in pending.what


def test_an_upgrade_that_is_not_finished_is_told() -> None:
    other = replace(SERVICE, name="reasoner-0", build=replace(SERVICE.build, version="0.1.0"))
    assert not list(release_findings([SERVICE], "0.2.0"))
    assert not list(release_findings([SERVICE, replace(other, state="lost")], "0.2.0"))
    (found,) = release_findings([SERVICE, other], "0.2.0")
    assert found.mark is Mark.NOTE
    assert "0.1.0: reasoner-0; 0.2.0: the orchestrator, encoder-0" in found.what


def test_the_latest_on_the_number_of_pods() -> None:
    up = ScalingDecision(role="encoder", action="up", replicas=3, reason="lag grows", pod="", age_s=60.0)
    hold = replace(up, action="hold", reason="a load of 1.00", age_s=2.0)
    drain = replace(up, action="drain", pod="demo-encoder-2")
    changed, held, drained = scaling_findings([up, hold, drain])
    assert (changed.mark, held.mark) == (Mark.NOTE, Mark.OK)
    assert "encoder pods: up, 3 wanted" in changed.what
    assert "lag grows" in changed.what
    assert "drain demo-encoder-2" in drained.what


def test_a_healthy_service_is_one_line_with_its_load() -> None:
    (only,) = service_findings(SERVICE)
    assert only.mark is Mark.OK
    assert only.what.startswith("encoder-0 (encoder at 127.0.0.1:1) is ready, 2 streams, 0 restarts, model")
    assert only.what.endswith("; 3 units wait, process 300 MiB, metrics at 127.0.0.1:7422")


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({"state": "lost", "reason": "silent for 3.1 s, lease 3 s"}, Mark.BAD, "is lost"),
        ({"last_loss": "its attachment ended; signal SIGKILL", "last_loss_age_s": 30.0, "restarts": 1},
         Mark.NOTE, "was lost 30 s ago: its attachment ended; signal SIGKILL"),
        ({"last_loss": "it restarted", "last_loss_age_s": 30.0, "restarts": 3}, Mark.BAD, "keeps failing"),
        ({"heartbeat_age_ms": 2500.0}, Mark.NOTE, "silent for 2.5 s"),
        ({"details": {"units_waiting": "65"}}, Mark.BAD, "is behind: 65 units"),
        ({"details": {"disk_full": "1"}}, Mark.BAD, "cannot write to its disk"),
        ({"details": {"overload": "gaps", "late_seconds": "2.5"}}, Mark.BAD,
         "leaves frames out, takes no new streams: units are 2.5 s late"),
        ({"details": {"overload": "rates", "late_seconds": "0"}}, Mark.NOTE,
         "less than they asked for: it catches up"),
        ({"details": {"overload": "none", "late_seconds": "1.5"}}, Mark.NOTE, "units are 1.5 s late"),
        ({"details": {"ram_used_bytes": "99", "ram_budget_bytes": "100"}}, Mark.NOTE, "blocks is full"),
    ],
)  # fmt: skip
def test_each_trouble_of_a_service_has_a_line(changes: dict[str, Any], mark: Mark, words: str) -> None:
    last = list(service_findings(replace(SERVICE, **changes)))[-1]
    assert last.mark is mark
    assert words in last.what
    assert last.remedy


def test_what_a_service_said_before_it_was_lost_is_not_told_of_the_next() -> None:
    (only,) = service_findings(replace(SERVICE, state="starting"))
    assert "MiB" not in only.what


def test_what_is_long_past_or_as_it_should_be_has_none() -> None:
    for changes in (
        {"last_loss": "it restarted", "last_loss_age_s": 7200.0, "restarts": 9},
        {"details": {"ram_used_bytes": "99", "ram_budget_bytes": "100", "disk_used_bytes": "5"}},
        {"details": {"units_waiting": "nonsense", "disk_full": "0"}},
        {"details": {"overload": "none", "late_seconds": "0.4"}},
        {"details": {"overload": "new", "late_seconds": "nan"}},
        {"details": {"late_seconds": "nonsense"}},
        {"state": "starting"},
    ):
        assert marks(list(service_findings(replace(SERVICE, **changes)))) == [Mark.OK]


def test_a_healthy_stream_is_counted_and_no_more() -> None:
    (only,) = stream_findings([stream()])
    assert (only.mark, only.what) == (Mark.OK, "1 streams, at most 1.0 s behind")
    assert not list(stream_findings([]))


@pytest.mark.parametrize(
    ("changes", "mark", "words"),
    [
        ({"state": "recovering", "last_error": "it is gone"}, Mark.BAD, "is recovering: it is gone"),
        ({"state": "opening", "age_s": 2.0}, Mark.NOTE, "is opening"),
        ({"state": "opening", "age_s": 20.0}, Mark.BAD, "is opening"),
        ({"last_error": "the link broke", "last_error_age_s": 5.0}, Mark.NOTE, "5 s ago: the link broke"),
        ({"received_us": 14 * SECOND}, Mark.NOTE, "5.0 s behind on encoder-0"),
        ({"received_us": 24 * SECOND}, Mark.BAD, "15.0 s behind"),
        ({"rate_reason": "the encoder is 1.2 s late: 2 of 4 frames per second", "tenant": "shop"}, Mark.NOTE,
         "of shop is watched at a lower rate: the encoder is 1.2 s late: 2 of 4"),
        ({"gaps": (Gap(TimeRange(0, SECOND), GapReason.BACKLOG_FULL),)}, Mark.NOTE, "1.0 s backlog_full"),
    ],
)  # fmt: skip
def test_each_trouble_of_a_stream_has_a_line(changes: dict[str, Any], mark: Mark, words: str) -> None:
    first, last = stream_findings([stream(**changes)])
    assert first.mark is Mark.OK
    assert last.mark is mark
    assert words in last.what


def test_a_pause_of_the_source_is_no_finding() -> None:
    gaps = (Gap(TimeRange(0, SECOND), GapReason.SOURCE),)
    assert marks(list(stream_findings([stream(gaps=gaps)]))) == [Mark.OK]


def test_why_a_stream_is_as_it_is() -> None:
    gaps = tuple(Gap(TimeRange(at * SECOND, (at + 1) * SECOND), GapReason.UNDECODABLE) for at in (2, 62))
    assert gap_words(gaps) == {GapReason.UNDECODABLE: "2.0 s undecodable, last at 01:02.0"}
    lines = reasons(
        stream(
            gaps=gaps,
            placed_because="fewest streams of 2 possible pairs",
            epoch=3,
            blocks_per_s=0.5,
            last_error="encoder encoder-1 is gone: silent",
            last_error_age_s=42.0,
        )
    )
    assert [line.strip() for line in lines] == [
        "encoder-0 and reasoner-0: fewest streams of 2 possible pairs (placement 3)",
        "1 frames a second watched, 0.5 blocks a second published, 1.0 MiB kept for replay",
        "gaps: 2.0 s undecodable, last at 01:02.0",
        "last error, 42 s ago: encoder encoder-1 is gone: silent",
    ]


def test_whose_stream_it_is_and_why_it_is_slow() -> None:
    lines = reasons(stream(tenant="shop", rate_reason="the encoder is overloaded: 2 of 4 frames per second"))
    assert [line.strip() for line in lines[1:]] == [
        "tenant shop: 1 frames a second watched, 0.0 blocks a second published, 1.0 MiB kept for replay",
        "slowed: the encoder is overloaded: 2 of 4 frames per second",
    ]


def test_how_much_of_a_service_is_used() -> None:
    (only,) = service_findings(replace(SERVICE, load=0.83))
    assert "; 83% used, 3 units wait" in only.what


def decided(stream_id: str, outcome: str, age_s: float, **more: Any) -> AdmissionDecision:
    whole = {"tenant": "shop", "reason": "no room for the stream: full"} | more
    return AdmissionDecision(stream_id=stream_id, outcome=outcome, age_s=age_s, **whole)


def test_who_was_refused_and_why() -> None:
    found = list(
        decision_findings(
            [
                decided("old", "refused", 3600.0),
                decided("one", "refused", 30.0),
                decided("two", "refused", 5.0, retry_after_s=12.0),
                decided("in", "admitted", 4.0, reason="it fits"),
                decided("less", "degraded", 3.0, tenant="lab", reason="its fair share is 1 frame per second"),
            ]
        )
    )
    assert [(each.mark, each.what) for each in found] == [
        (
            Mark.NOTE,
            "tenant shop: 2 of the last 5 new streams were refused, two 5 s ago: no room for the stream: "
            "full (told to come again after 12 s)",
        ),
        (
            Mark.NOTE,
            "tenant lab: 1 of the last 5 new streams were let in at a lower rate, less 3 s ago: "
            "its fair share is 1 frame per second",
        ),
    ]
    assert not list(decision_findings([decided("in", "admitted", 1.0)]))
