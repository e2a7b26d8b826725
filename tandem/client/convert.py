"""Pure: the client's dataclasses to and from the messages of ``proto/tandem/v1/client.proto``."""

from __future__ import annotations

from collections.abc import Iterable

from tandem.client.retrieving import retrieval_to_proto
from tandem.client.standing import Alert
from tandem.client.thinking import Thinking, thinking_to_proto, thinking_usage
from tandem.client.types import (
    Answer,
    AnswerDelta,
    FinishReason,
    Limits,
    MediaKind,
    MediaOptions,
    ModelInfo,
    Opened,
    PictureFormat,
    Progress,
    Recall,
    RecalledBlock,
    Refusal,
    Retrieval,
    Sampling,
    Thought,
    Timings,
    Usage,
)
from tandem.client.workers import WorkerFinish, WorkerLayout, Workers, WorkerUsage
from tandem.core.timeline import Gap
from tandem.wire.convert import gap_from_proto, range_from_proto
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tandem.wire.status import error_from_proto

MEDIA_KIND_TO_PROTO = {
    MediaKind.PICTURES: types_pb2.MEDIA_KIND_PICTURES,
    MediaKind.H264_ANNEX_B: types_pb2.MEDIA_KIND_H264_ANNEX_B,
    MediaKind.H265_ANNEX_B: types_pb2.MEDIA_KIND_H265_ANNEX_B,
    MediaKind.FRAGMENTED_MP4: types_pb2.MEDIA_KIND_FRAGMENTED_MP4,
    MediaKind.MPEG_TS: types_pb2.MEDIA_KIND_MPEG_TS,
}
PICTURE_FORMAT_TO_PROTO = {
    PictureFormat.JPEG: types_pb2.PICTURE_FORMAT_JPEG,
    PictureFormat.PNG: types_pb2.PICTURE_FORMAT_PNG,
    PictureFormat.RGB24: types_pb2.PICTURE_FORMAT_RGB24,
}
_FINISH_FROM_PROTO = {
    types_pb2.FINISH_REASON_END: FinishReason.END,
    types_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    types_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    types_pb2.FINISH_REASON_LOOP: FinishReason.LOOP,
    types_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    types_pb2.FINISH_REASON_ERROR: FinishReason.ERROR,
}
_LAYOUT_TO_PROTO = {
    WorkerLayout.CONTIGUOUS: types_pb2.WORKER_LAYOUT_CONTIGUOUS,
    WorkerLayout.INTERLEAVED: types_pb2.WORKER_LAYOUT_INTERLEAVED,
    WorkerLayout.COMBINED: types_pb2.WORKER_LAYOUT_COMBINED,
}
_WORKER_FINISH_FROM_PROTO = {
    types_pb2.WORKER_FINISH_END: WorkerFinish.END,
    types_pb2.WORKER_FINISH_LENGTH: WorkerFinish.LENGTH,
    types_pb2.WORKER_FINISH_OTHERS: WorkerFinish.OTHERS,
}


def media_to_proto(media: MediaOptions) -> types_pb2.MediaOptions:
    """Media options for the wire."""
    return types_pb2.MediaOptions(
        kind=MEDIA_KIND_TO_PROTO[media.kind],
        sample_fps=media.sample_fps,
        nominal_fps=media.nominal_fps,
        min_fps=media.min_fps,
        max_lag_ms=max(round(media.max_lag_s * 1000), 0),
    )


def question_to_proto(
    *,
    question_id: str,
    text: str,
    sampling: Sampling | None = None,
    at_once: bool = False,
    latency_budget_s: float = 0.0,
    retrieval: Retrieval | None = None,
    workers: Workers | None = None,
    thinking: Thinking | None = None,
) -> types_pb2.Question:
    """A question for the wire."""
    return types_pb2.Question(
        question_id=question_id,
        text=text,
        sampling=sampling_to_proto(sampling) if sampling else None,
        answer_from_published=at_once,
        latency_budget_ms=round(latency_budget_s * 1000),
        retrieval=retrieval_to_proto(retrieval) if retrieval else None,
        workers=workers_to_proto(workers) if workers else None,
        thinking=thinking_to_proto(thinking) if thinking else None,
    )


def workers_to_proto(workers: Workers) -> types_pb2.Workers:
    """Parallel workers, for the wire."""
    return types_pb2.Workers(
        count=workers.count,
        layout=_LAYOUT_TO_PROTO[workers.layout],
        max_tokens=workers.max_tokens,
        sampling=[sampling_to_proto(item) for item in workers.sampling],
        self_check_tokens=workers.self_check_tokens,
        step_tokens=workers.step_tokens,
        over=types_pb2.WORKERS_OVER_ALL if workers.wait_for_all else types_pb2.WORKERS_OVER_FIRST,
        template=workers.template,
    )


def sampling_to_proto(sampling: Sampling) -> types_pb2.Sampling:
    """Sampling values for the wire."""
    return types_pb2.Sampling(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
    )


def model_from_proto(message: types_pb2.ModelInfo) -> ModelInfo:
    """The model's description."""
    return ModelInfo(
        source=message.source,
        fingerprint=message.fingerprint,
        native_fps=message.native_fps,
        block_bytes=message.block_bytes,
    )


def opened_from_proto(message: client_pb2.WatchResponse.Welcome) -> Opened:
    """The server's welcome."""
    limits = message.limits
    return Opened(
        stream_id=message.stream_id,
        resume_token=message.resume_token,
        resumed=message.resumed,
        next_position=message.next_position,
        model=model_from_proto(message.model),
        sample_fps=message.sample_fps,
        limits=Limits(
            max_message_bytes=limits.max_message_bytes,
            max_question_chars=limits.max_question_chars,
            max_open_questions=limits.max_open_questions,
            max_picture_pixels=limits.max_picture_pixels,
            resume_s=float(limits.resume_seconds),
        ),
        admission=message.admission,
    )


def progress_from_proto(message: client_pb2.WatchResponse.Progress) -> Progress:
    """What has been watched."""
    return Progress(
        received_us=message.received_us,
        watermark_us=message.watermark_us,
        durable_watermark_us=message.durable_watermark_us,
        lag_ms=message.lag_ms,
        gaps=_gaps(message.gaps),
        safe_position=message.safe_position,
        blocks=message.blocks,
        received_position=message.received_position,
        sample_fps=message.sample_fps,
        rate_reason=message.rate_reason,
    )


def thought_from_proto(message: client_pb2.WatchResponse.Thought) -> Thought:
    """A worker's thought."""
    return Thought(
        worker=message.worker,
        time_us=message.time_us,
        text=message.text,
        question_id=message.question_id,
        number=message.number,
        note=message.note,
        time=range_from_proto(message.range),
        done=message.done,
        failed=message.failed,
        dropped=message.dropped,
    )


def alert_from_proto(message: client_pb2.WatchResponse.Alert) -> Alert:
    """A standing question became true."""
    return Alert(
        question_id=message.question_id,
        time_us=message.time_us,
        onset=message.onset,
        text=message.text,
        evidence=tuple(range_from_proto(item) for item in message.evidence.seen),
        evidence_blocks=message.evidence.blocks,
    )


def refusal_from_proto(message: client_pb2.WatchResponse.Refusal) -> Refusal:
    """A refusal."""
    return Refusal(
        error=error_from_proto(message.error),
        position=message.position if message.HasField("position") else None,
        question_id=message.question_id,
    )


def delta_from_proto(message: client_pb2.AnswerDelta) -> AnswerDelta:
    """More text of an answer."""
    return AnswerDelta(question_id=message.question_id, text=message.text)


def answer_from_proto(message: client_pb2.Answer) -> Answer:
    """The final record of an answer."""
    return Answer(
        question_id=message.question_id,
        text=message.text,
        finish_reason=_FINISH_FROM_PROTO.get(message.finish_reason, FinishReason.ERROR),
        asked_us=message.asked_us,
        watermark_us=message.watermark_us,
        evidence=tuple(range_from_proto(item) for item in message.evidence.seen),
        evidence_blocks=message.evidence.blocks,
        notes=tuple(range_from_proto(item) for item in message.evidence.notes),
        recall=_recall(message.evidence),
        gaps=_gaps(message.gaps),
        usage=Usage(
            context_tokens=message.usage.context_tokens,
            prompt_tokens=message.usage.prompt_tokens,
            answer_tokens=message.usage.answer_tokens,
            thinking_tokens=message.usage.thinking_tokens,
            thinking_closed_by=message.usage.thinking_closed_by,
            notes_tokens=message.usage.notes_tokens,
            thinking=thinking_usage(message.usage),
        ),
        workers=tuple(_worker(item) for item in message.workers),
        timings=Timings(
            wait_frames_ms=message.timings.wait_frames_ms,
            queue_ms=message.timings.queue_ms,
            prefill_ms=message.timings.prefill_ms,
            first_token_ms=message.timings.first_token_ms,
            total_ms=message.timings.total_ms,
        ),
        error=error_from_proto(message.error) if message.HasField("error") else None,
    )


def _recall(message: types_pb2.Evidence) -> Recall:
    return Recall(
        strategy=message.strategy,
        blocks=tuple(
            RecalledBlock(time=range_from_proto(item.time), score=item.score, layers=item.layers)
            for item in message.recalled
        ),
        skipped=message.skipped,
        lost=message.lost,
        disk_bytes=message.disk_bytes,
        loaded_bytes=message.loaded_bytes,
    )


def _worker(message: types_pb2.WorkerUsage) -> WorkerUsage:
    return WorkerUsage(
        number=message.number,
        name=message.name,
        tokens=message.tokens,
        steps=message.steps,
        self_checks=message.self_checks,
        finish=_WORKER_FINISH_FROM_PROTO.get(message.finish, WorkerFinish.OTHERS),
    )


def _gaps(messages: Iterable[types_pb2.Gap]) -> tuple[Gap, ...]:
    return tuple(gap_from_proto(item) for item in messages)
