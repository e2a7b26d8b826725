"""Pure: what an operator sees, from the messages of ``proto/tandem/v1/client.proto``."""

from __future__ import annotations

from tandem.client.convert import model_from_proto, progress_from_proto
from tandem.client.overview import (
    AdmissionDecision,
    BuildInfo,
    ScalingDecision,
    ServiceStatus,
    Status,
    StreamSummary,
)
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.watching import mode_from_proto


def summary_from_proto(message: client_pb2.StreamSummary) -> StreamSummary:
    """One stream of a listing."""
    return StreamSummary(
        stream_id=message.stream_id,
        state=message.state,
        progress=progress_from_proto(message.progress),
        encoder=message.encoder,
        reasoner=message.reasoner,
        open_questions=message.open_questions,
        sample_fps=message.sample_fps,
        age_s=message.age_s,
        backlog_bytes=message.backlog_bytes,
        attached=message.attached,
        watching=mode_from_proto(message.watching),
        last_note=message.last_note,
        standing_questions=message.standing_questions,
        tenant=message.tenant,
        placed_because=message.placed_because,
        epoch=message.epoch,
        last_error=message.last_error,
        last_error_age_s=message.last_error_age_s,
        blocks_per_s=message.blocks_per_s,
    )


def status_from_proto(message: client_pb2.GetStatusResponse) -> Status:
    """What runs."""
    return Status(
        build=_build(message.build),
        services=tuple(_service(item) for item in message.services),
        listeners=tuple(message.listeners),
        decisions=tuple(_decision(item) for item in message.decisions),
        scaling=tuple(_scaling(item) for item in message.scaling),
        term=message.term,
    )


def _scaling(message: client_pb2.ScalingDecision) -> ScalingDecision:
    return ScalingDecision(
        role=message.role,
        action=message.action,
        replicas=message.replicas,
        reason=message.reason,
        pod=message.pod,
        age_s=message.age_s,
    )


def _decision(message: client_pb2.AdmissionDecision) -> AdmissionDecision:
    return AdmissionDecision(
        stream_id=message.stream_id,
        tenant=message.tenant,
        outcome=message.outcome,
        reason=message.reason,
        age_s=message.age_s,
        retry_after_s=message.retry_after_s,
    )


def _service(message: client_pb2.ServiceStatus) -> ServiceStatus:
    return ServiceStatus(
        name=message.name,
        role=message.role,
        address=message.address,
        state=message.state,
        build=_build(message.build),
        model=model_from_proto(message.model),
        restarts=message.restarts,
        heartbeat_age_ms=message.heartbeat_age_ms,
        streams=message.streams,
        details=dict(message.details),
        load=message.load,
        reason=message.reason,
        last_loss=message.last_loss,
        last_loss_age_s=message.last_loss_age_s,
    )


def _build(message: types_pb2.BuildInfo) -> BuildInfo:
    return BuildInfo(version=message.version, boot_id=message.boot_id, pid=message.pid)
