"""Pure. Requests to answer, checked and turned into an `AskedQuestion`; answers turned into messages.

Knows the messages and the model's prompt layout; no engine, no store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reasoner_svc.config import ReasonerConfig
from reasoner_svc.decode.outbox import ThoughtPiece
from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion, Finish, RetrievalWish
from reasoner_svc.decode.stop import check_stops
from reasoner_svc.streams import StreamRecord
from reasoner_svc.thinking.asking import thinking_to_proto, thinking_wish
from reasoner_svc.thinking.tools import NO_TOOLS, ThinkingTools
from reasoner_svc.workers.asking import WorkerLimits, worker_to_proto, workers_wish
from reasoner_svc.workers.templates import Template
from tandem.core.errors import BadQuestion, InvalidInput, WrongState
from tandem.core.ids import NOTES_SUFFIX, QuestionId, is_stream_id, is_valid_id
from tandem.core.timeline import merge_ranges
from tandem.wire.convert import range_to_proto, ranges_to_proto
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2

if TYPE_CHECKING:
    from reasoner_svc.view.compose import ViewPlan
    from reasoner_svc.view.recall import RecallReport
    from tandem.vlm.families.base import PromptLayout

MAX_NAME_CHARS = 64
_FINISH = {
    Finish.END: types_pb2.FINISH_REASON_END,
    Finish.STOP: types_pb2.FINISH_REASON_STOP,
    Finish.LENGTH: types_pb2.FINISH_REASON_LENGTH,
    Finish.LOOP: types_pb2.FINISH_REASON_LOOP,
}


def check_opening(request: reasoner_pb2.OpenStreamRequest) -> None:
    """Raises `InvalidInput` for names that cannot be a stream's."""
    if not is_stream_id(request.stream_id):
        raise InvalidInput(
            f"stream_id {request.stream_id!r} is not 1 to 64 characters of [A-Za-z0-9._-], "
            f"or ends with {NOTES_SUFFIX!r}"
        )
    if request.incarnation and not is_valid_id(request.incarnation):
        raise InvalidInput(f"incarnation {request.incarnation!r} is not 1 to 64 of these characters")


def asked_question(
    request: reasoner_pb2.AnswerRequest,
    record: StreamRecord,
    prompt: PromptLayout,
    config: ReasonerConfig,
    now_s: float,
    templates: Mapping[str, Template] | None = None,
    tools: ThinkingTools = NO_TOOLS,
) -> AskedQuestion:
    """The question, validated. Raises BadQuestion, or WrongState when the stream shows nothing yet.

    `templates` are the prompts that questions with workers may name, `tools` what
    policies of thinking need.
    """
    question = request.question
    if not is_valid_id(question.question_id):
        raise BadQuestion(f"question_id {question.question_id!r} is not 1 to 64 characters of [A-Za-z0-9._-]")
    if len(question.retrieval.strategy) > MAX_NAME_CHARS:
        raise BadQuestion(f"no strategy has a name of {len(question.retrieval.strategy)} characters")
    if not 0 <= question.retrieval.mass <= 1:  # nor NaN
        raise BadQuestion(f"retrieval.mass is {question.retrieval.mass}; it is a share from 0 (off) to 1")
    if request.as_of_us < 0:
        raise BadQuestion(f"as_of_us is {request.as_of_us}; it cannot be negative")
    if len(question.text) > config.max_question_chars:
        limit = config.max_question_chars
        raise BadQuestion(f"the question has {len(question.text)} characters; at most {limit} are allowed")
    sampling, stops, max_tokens = _sampling(question.sampling, config)
    prompt_ids = tuple(prompt.question_tokens(question.text, max_tokens=config.max_prompt_tokens))
    span, workers = prompt.question_span(prompt_ids), None
    if question.HasField("workers"):
        workers = workers_wish(
            question.workers,
            sampling,
            prompt,
            prompt_ids,
            templates or {},
            config.worker_template,
            worker_limits(config),
        )
        prompt_ids, span = workers.prompts.prompt_ids, workers.prompts.span
    thinking = None
    if question.HasField("thinking"):
        if workers is not None:
            raise BadQuestion("a question has workers or thinking of its own, not both")
        thinking, opening = thinking_wish(
            question.thinking, prompt, config.max_thought_tokens, question.text, span[1], tools
        )
        prompt_ids = (*prompt_ids, *opening)
    if record.watermark_us == 0 and record.blocks == 0 and not record.evicted:
        raise WrongState(f"stream {record.stream!r} has no video yet")
    return AskedQuestion(
        stream=record.stream,
        question_id=QuestionId(question.question_id),
        run=record.run,
        prompt_ids=prompt_ids,
        sampling=sampling,
        stops=stops,
        max_tokens=max_tokens,
        as_of_us=request.as_of_us,
        arrived_s=now_s,
        evicted=tuple(record.evicted),
        retrieval=RetrievalWish(
            strategy=question.retrieval.strategy,
            blocks=question.retrieval.blocks,
            tokens=question.retrieval.tokens,
            mass=question.retrieval.mass,
            chunk=question.retrieval.chunk,
            load_s=question.retrieval.load_budget_ms / 1000,
            text=question.text,
            span=span,
        ),
        workers=workers,
        thinking=thinking,
    )


def worker_limits(config: ReasonerConfig) -> WorkerLimits:
    """What questions may ask for."""
    return WorkerLimits(
        max_workers=min(config.max_workers, config.max_running),
        max_thought_tokens=config.max_thought_tokens,
        default_tokens=config.worker_tokens,
        default_step_tokens=config.step_tokens,
        default_check_tokens=config.self_check_tokens,
        max_prompt_tokens=config.max_prompt_tokens,
        opening_tokens=config.prefill_chunk,
    )


def piece_to_proto(piece: str | ThoughtPiece, asked: AskedQuestion) -> reasoner_pb2.AnswerResponse:
    """More text, of the answer or of a worker, for the wire."""
    if isinstance(piece, str):
        return reasoner_pb2.AnswerResponse(delta=piece)
    assert asked.workers is not None or asked.thinking is not None, "a thought of nobody"
    return reasoner_pb2.AnswerResponse(
        thought=reasoner_pb2.AnswerResponse.Thought(
            number=piece.worker,
            worker=asked.workers.template.name(piece.worker) if asked.workers is not None else "",
            time_us=piece.time_us,
            text=piece.text,
        )
    )


def final_to_proto(record: AnswerRecord) -> reasoner_pb2.AnswerResponse:
    """The final record of an answer for the wire."""
    plan, recall, thinking = record.plan, record.recall, record.thinking
    return reasoner_pb2.AnswerResponse(
        final=reasoner_pb2.AnswerResponse.Final(
            text=record.text,
            finish_reason=_FINISH[record.finish],
            evidence=_evidence(plan, recall),
            watermark_us=plan.watermark_us,
            usage=types_pb2.Usage(
                context_tokens=plan.context_tokens + (recall.tokens if recall else 0),
                prompt_tokens=record.prompt_tokens,
                answer_tokens=len(record.token_ids) - (thinking.tokens if thinking else 0),
                thinking_tokens=thinking.tokens if thinking else 0,
                thinking_closed_by=thinking.closed_by if thinking else "",
                notes_tokens=plan.notes.tokens,
                thinking=thinking_to_proto(thinking) if thinking else None,
            ),
            queue_ms=record.queue_ms,
            prefill_ms=record.prefill_ms,
            token_ids=record.token_ids,
            evicted=ranges_to_proto(record.evicted),
            workers=[worker_to_proto(number, worker) for number, worker in enumerate(record.workers)],
        )
    )


def _evidence(plan: ViewPlan, recall: RecallReport | None) -> types_pb2.Evidence:
    notes = ranges_to_proto(plan.notes.times)
    if recall is None:
        return types_pb2.Evidence(seen=ranges_to_proto(plan.evidence), blocks=plan.blocks, notes=notes)
    older = sorted(recall.blocks.values(), key=lambda block: block.number)
    return types_pb2.Evidence(
        seen=ranges_to_proto(merge_ranges([*(block.time for block in older), *plan.evidence])),
        blocks=plan.blocks + len(older),
        recalled=[
            types_pb2.Recalled(time=range_to_proto(block.time), score=block.score, layers=block.layers)
            for block in older
        ],
        strategy=recall.strategy,
        skipped=recall.skipped,
        lost=recall.lost,
        disk_bytes=recall.disk_bytes,
        loaded_bytes=recall.loaded_bytes,
        notes=notes,
    )


def state_to_proto(
    record: StreamRecord, ram_bytes: int, disk_bytes: int | None, last_note: int
) -> reasoner_pb2.StreamState:
    """What is held of a stream, for the wire. `disk_bytes` is None without a disk tier."""
    return reasoner_pb2.StreamState(
        stream_id=record.stream,
        next_block_number=record.frontier.next,
        watermark_us=record.watermark_us,
        blocks=record.blocks,
        ram_bytes=ram_bytes,
        evicted=ranges_to_proto(record.evicted),
        epoch=record.epoch,
        durable_watermark_us=None if disk_bytes is None else record.durable_us,
        disk_bytes=disk_bytes or 0,
        incarnation=record.incarnation,
        last_note=last_note,
    )


def _sampling(
    message: types_pb2.Sampling, config: ReasonerConfig
) -> tuple[SamplingParams, tuple[str, ...], int]:
    params = SamplingParams(
        temperature=message.temperature,
        top_p=message.top_p or 1.0,
        seed=message.seed,
    )
    max_tokens = message.max_tokens or config.default_answer_tokens
    if max_tokens > config.max_answer_tokens:
        raise BadQuestion(f"max_tokens is {max_tokens}; at most {config.max_answer_tokens} are allowed")
    return params, check_stops(message.stop), max_tokens
