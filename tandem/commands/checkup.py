"""Pure: what is wrong with services that run and streams that are watched, and what to do about it.

Bad is what somebody must act on now; a note is what has passed, or may become bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from tandem.client.overview import AdmissionDecision, ScalingDecision, ServiceStatus, StreamSummary
from tandem.commands.findings import Finding, Mark
from tandem.core.overload import LATE_SECONDS, OVERLOAD, RAM_BUDGET_BYTES, RAM_USED_BYTES, Overload
from tandem.core.timeline import MICROSECONDS, Gap, GapReason, format_time

FRESH_LOSS_S = 3600.0
"""A loss is worth a line for so long."""
CRASHING_S = 600.0
"""Lost within this, and restarted this often before: something is wrong that a restart does not cure."""
CRASHING = 3
SILENT_MS = 2000.0
"""Heartbeats come twice a second."""
WAITING_UNITS = 64
"""At an encoder: more than four full batches."""
LATE_S = 1.0
"""Of an encoder's units past their deadline."""
FULL = 0.97
LAG_BAD_S = 10.0
LAG_NOTE_S = 3.0
FRESH_ERROR_S = 600.0
_MIB = 1 << 20

_LOST_FRAMES = {
    GapReason.UNDECODABLE: "check the camera or file: parts of it cannot be decoded",
    GapReason.BACKLOG_FULL: "the encoder fell behind or was away: see its load; --backlog-bytes keeps more",
    GapReason.OVERLOAD: "more video comes than is encoded: a lower sampling rate, or another encoder",
    GapReason.REASONER_LOST: "blocks were only in memory: --data-dir keeps them",
    GapReason.ORCHESTRATOR_LOST: "blocks were only in memory: --data-dir keeps them",
    GapReason.EVICTED: "memory is full: more --ram-bytes, or --data-dir",
}
"""What to do about each reason; of what the source never sent, nothing."""


def load_words(service: ServiceStatus) -> str:
    """Load and memory of a service, from what it says of itself."""
    details = service.details
    words = []
    if service.load:
        words.append(f"{service.load:.0%} used")
    if waiting := _number(details, "units_waiting"):
        words.append(f"{waiting} units wait")
    if questions := _number(details, "questions"):
        words.append(f"{questions} questions")
    if budget := _number(details, RAM_BUDGET_BYTES):
        words.append(f"blocks {_number(details, RAM_USED_BYTES) // _MIB} of {budget // _MIB} MiB RAM")
    if disk := _number(details, "disk_used_bytes"):
        words.append(f"{disk // _MIB} MiB disk")
    if resident := _number(details, "rss_bytes"):
        words.append(f"process {resident // _MIB} MiB")
    if metrics := details.get("metrics"):
        words.append(f"metrics at {metrics}")
    return ", ".join(words)


def service_findings(service: ServiceStatus) -> Iterator[Finding]:
    """One line about the service, then one for each thing that is wrong with it."""
    what = (
        f"{service.name} ({service.role} at {service.address}) is {service.state}, "
        f"{service.streams} streams, {service.restarts} restarts"
    )
    if service.model.fingerprint:
        what += f", model {service.model.source} {service.model.fingerprint}"
    if service.state in ("ready", "draining") and (load := load_words(service)):
        what += f"; {load}"
    if service.state not in ("ready", "starting", "draining"):
        why = service.reason or "nothing is known of why"
        yield Finding(Mark.BAD, f"{what}; {why}", f"see {service.name}.log in the run directory's logs")
        return
    if service.state == "starting" and service.reason:
        yield Finding(Mark.NOTE, f"{what}; {service.reason}")
    else:
        yield Finding(Mark.OK, what)
    yield from _loss(service)
    if service.state == "ready":
        yield from _load(service)


def _loss(service: ServiceStatus) -> Iterator[Finding]:
    if not service.last_loss or service.last_loss_age_s > FRESH_LOSS_S:
        return
    what = f"{service.name} was lost {_ago(service.last_loss_age_s)}: {service.last_loss}"
    log = f"see {service.name}.log in the run directory's logs"
    if service.restarts >= CRASHING and service.last_loss_age_s < CRASHING_S:
        yield Finding(Mark.BAD, f"{what}; {service.restarts} restarts so far: it keeps failing", log)
    else:
        yield Finding(Mark.NOTE, what, log)


def _load(service: ServiceStatus) -> Iterator[Finding]:
    details = service.details
    if service.heartbeat_age_ms > SILENT_MS:
        yield Finding(
            Mark.NOTE,
            f"{service.name} was silent for {service.heartbeat_age_ms / 1000:.1f} s",
            "its machine may be overloaded: look at its processors and memory",
        )
    if _number(details, "disk_full"):
        yield Finding(
            Mark.BAD,
            f"{service.name} cannot write to its disk: new blocks are only in memory",
            "free space in --data-dir, or give it more: --disk-bytes",
        )
    if (waiting := _number(details, "units_waiting")) > WAITING_UNITS:
        yield Finding(
            Mark.BAD,
            f"{service.name} is behind: {waiting} units wait for the model",
            "fewer streams, a lower sampling rate, another encoder (--encoders), or a faster device",
        )
    yield from _overload(service)
    used, budget = _number(details, RAM_USED_BYTES), _number(details, RAM_BUDGET_BYTES)
    if budget and used > FULL * budget and not _number(details, "disk_used_bytes"):
        yield Finding(
            Mark.NOTE,
            f"{service.name}: its memory for blocks is full, the oldest leave for good",
            "more --ram-bytes, or --data-dir to keep them on disk",
        )


def _overload(service: ServiceStatus) -> Iterator[Finding]:
    stage, late_s = service.details.get(OVERLOAD, ""), _seconds(service.details, LATE_SECONDS)
    late = f"units are {late_s:.1f} s late" if late_s > 0 else "it catches up"
    remedy = "another encoder (--encoders), a faster device, or fewer streams"
    if stage == Overload.GAPS:
        yield Finding(
            Mark.BAD,
            f"{service.name} is overloaded and leaves frames out, takes no new streams: {late}",
            remedy,
        )
    elif stage == Overload.LATE:
        what = f"{service.name} is overloaded and takes no new streams: {late}"
        yield Finding(Mark.BAD, what, remedy)
    elif stage == Overload.RATES:
        what = f"{service.name} is overloaded and watches streams at less than they asked for: {late}"
        yield Finding(Mark.NOTE, what, remedy)
    elif late_s > LATE_S:
        yield Finding(Mark.NOTE, f"{service.name}: units are {late_s:.1f} s late", remedy)


def decision_findings(decisions: Sequence[AdmissionDecision]) -> Iterator[Finding]:
    """A line for each tenant that was refused streams lately, or given less than it asked for."""
    fresh = [each for each in decisions if each.age_s < FRESH_ERROR_S]
    for outcome, words in {"refused": "refused", "degraded": "let in at a lower rate"}.items():
        by_tenant: dict[str, list[AdmissionDecision]] = {}
        for each in fresh:
            if each.outcome == outcome:
                by_tenant.setdefault(each.tenant, []).append(each)
        for tenant, found in by_tenant.items():
            last = min(found, key=lambda each: each.age_s)
            what = f"tenant {tenant}: {len(found)} of the last {len(decisions)} new streams were {words}"
            what += f", {last.stream_id} {_ago(last.age_s)}: {last.reason}"
            if last.retry_after_s:
                what += f" (told to come again after {last.retry_after_s:.0f} s)"
            yield Finding(Mark.NOTE, what, "see the load of the services above, and the tenant's quota")


def release_findings(services: Iterable[ServiceStatus], orchestrator: str) -> Iterator[Finding]:
    """A line while processes of several releases run: an upgrade is under way, or was left in the middle."""
    names: dict[str, list[str]] = {orchestrator: ["the orchestrator"]}
    for service in services:
        if service.state in {"ready", "draining"}:
            names.setdefault(service.build.version, []).append(service.name)
    if len(names) > 1:
        told = "; ".join(f"{version}: {', '.join(names[version])}" for version in sorted(names))
        yield Finding(Mark.NOTE, f"several releases run: {told}", "finish the upgrade (docs/upgrades.md)")


def scaling_findings(scaling: Sequence[ScalingDecision]) -> Iterator[Finding]:
    """A line for each role whose pods are scaled: what changed last, or why nothing does."""
    for each in scaling:
        pod = f" {each.pod}" if each.pod else ""
        what = (
            f"{each.role} pods: {each.action}{pod}, {each.replicas} wanted, {_ago(each.age_s)}: {each.reason}"
        )
        yield Finding(Mark.OK if each.action == "hold" else Mark.NOTE, what)


def stream_findings(streams: Sequence[StreamSummary]) -> Iterator[Finding]:
    """One line for each stream that something is wrong with; one for all when nothing is."""
    found = [finding for stream in streams for finding in _stream(stream)]
    if streams:
        behind_us = max(max(behind(stream) for stream in streams), 0)
        what = f"{len(streams)} streams, at most {behind_us / MICROSECONDS:.1f} s behind"
        yield Finding(Mark.OK, what)
    yield from found


def behind(stream: StreamSummary) -> int:
    """Microseconds of stream time that were received and are not published."""
    return max(0, stream.progress.received_us - stream.progress.watermark_us)


def _stream(stream: StreamSummary) -> Iterator[Finding]:
    name, error = f"stream {stream.stream_id}", stream.last_error
    if stream.state in ("opening", "recovering"):
        why = f": {error}" if error else ""
        yield Finding(
            Mark.BAD if stream.state == "recovering" or stream.age_s > LAG_BAD_S else Mark.NOTE,
            f"{name} is {stream.state}{why}",
            "it goes on by itself once an encoder and a reasoner are ready; see the services above",
        )
    elif error and stream.last_error_age_s < FRESH_ERROR_S:
        yield Finding(Mark.NOTE, f"{name} was interrupted {_ago(stream.last_error_age_s)}: {error}")
    behind_s = behind(stream) / MICROSECONDS
    if stream.state == "live" and behind_s > LAG_NOTE_S:
        yield Finding(
            Mark.BAD if behind_s > LAG_BAD_S else Mark.NOTE,
            f"{name} is {behind_s:.1f} s behind on {stream.encoder}",
            "a file that is read faster than it plays is no trouble; else see the encoder's load",
        )
    if stream.progress.rate_reason and stream.state == "live":
        what = f"{name} of {stream.tenant} is watched at a lower rate: {stream.progress.rate_reason}"
        yield Finding(Mark.NOTE, what, "it rises again by itself; see its encoder above")
    for reason, text in gap_words(stream.progress.gaps).items():
        if (remedy := _LOST_FRAMES.get(reason)) is not None:
            yield Finding(Mark.NOTE, f"{name}: {text}", remedy)


def gap_words(gaps: Iterable[Gap]) -> dict[GapReason, str]:
    """How much is missing of a stream for each reason, and where last."""
    words, total_us = {}, dict[GapReason, int]()
    for gap in gaps:
        total_us[gap.reason] = total_us.get(gap.reason, 0) + gap.range.end_us - gap.range.start_us
        words[gap.reason] = (
            f"{total_us[gap.reason] / MICROSECONDS:.1f} s {gap.reason.value}, "
            f"last at {format_time(gap.range.start_us)}"
        )
    return words


def _number(details: dict[str, str], name: str) -> int:
    text = details.get(name, "")
    return int(text) if text.isdecimal() else 0


def _seconds(details: dict[str, str], name: str) -> float:
    try:
        value = float(details.get(name, "0"))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def _ago(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s ago"
    return f"{seconds / 60:.0f} min ago" if seconds < 7200 else f"{seconds / 3600:.0f} h ago"
