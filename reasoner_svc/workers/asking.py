"""Pure. What a question says of its workers, checked; and what became of them, for the wire.

Knows the messages and the model's prompt layout; no engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from reasoner_svc.decode.params import SamplingParams
from reasoner_svc.workers.layouts import Layout
from reasoner_svc.workers.rules import Over, Rules, WorkerFinish
from reasoner_svc.workers.templates import Template, make_prompts
from reasoner_svc.workers.wish import WorkerRecord, WorkersWish
from tandem.core.errors import BadQuestion
from tandem.wire.gen.tandem.v1 import types_pb2

if TYPE_CHECKING:
    from tandem.vlm.families.base import PromptLayout

_LAYOUT = {
    types_pb2.WORKER_LAYOUT_UNSPECIFIED: Layout.COMBINED,
    types_pb2.WORKER_LAYOUT_CONTIGUOUS: Layout.CONTIGUOUS,
    types_pb2.WORKER_LAYOUT_INTERLEAVED: Layout.INTERLEAVED,
    types_pb2.WORKER_LAYOUT_COMBINED: Layout.COMBINED,
}
_OVER = {
    types_pb2.WORKERS_OVER_UNSPECIFIED: Over.FIRST,
    types_pb2.WORKERS_OVER_FIRST: Over.FIRST,
    types_pb2.WORKERS_OVER_ALL: Over.ALL,
}
_FINISH = {
    WorkerFinish.END: types_pb2.WORKER_FINISH_END,
    WorkerFinish.LENGTH: types_pb2.WORKER_FINISH_LENGTH,
    WorkerFinish.OTHERS: types_pb2.WORKER_FINISH_OTHERS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """What a question may ask for, and what it gets when it does not say."""

    max_workers: int
    max_thought_tokens: int
    """Of all workers of a question."""
    default_tokens: int
    """Of each worker."""
    default_step_tokens: int
    default_check_tokens: int
    max_prompt_tokens: int
    """Of question and rules."""
    opening_tokens: int
    """Most tokens that open the steps of all workers at once: what a pass has room for."""


def workers_wish(
    message: types_pb2.Workers,
    own: SamplingParams,
    prompt: PromptLayout,
    prompt_ids: tuple[int, ...],
    templates: Mapping[str, Template],
    default_template: str,
    limits: WorkerLimits,
) -> WorkersWish:
    """The wish, validated. `own` is the question's sampling. Raises BadQuestion that names what is wrong."""
    count = message.count
    if not 1 <= count <= limits.max_workers:
        raise BadQuestion(f"workers.count is {count}; 1 to {limits.max_workers} are allowed here")
    if message.layout not in _LAYOUT or message.over not in _OVER:
        raise BadQuestion(f"workers.layout {message.layout} or workers.over {message.over} is not known here")
    name = message.template or default_template
    if name not in templates:
        raise BadQuestion(f"no worker template {name[:64]!r} here; there are: {', '.join(templates)}")
    max_tokens = message.max_tokens or limits.default_tokens
    if max_tokens * count > limits.max_thought_tokens:
        raise BadQuestion(
            f"{count} workers of {max_tokens} tokens are {count * max_tokens}; "
            f"at most {limits.max_thought_tokens} together are allowed"
        )
    template = templates[name]
    prompts = make_prompts(template, count, prompt, prompt_ids, limits.max_prompt_tokens)
    rules = Rules(
        max_tokens=max_tokens,
        step_tokens=message.step_tokens if message.HasField("step_tokens") else limits.default_step_tokens,
        check_every=(
            message.self_check_tokens
            if message.HasField("self_check_tokens")
            else limits.default_check_tokens
        ),
    )
    _check_openings(template, count, max_tokens, prompt, limits.opening_tokens)
    return WorkersWish(
        layout=_LAYOUT[message.layout],
        sampling=_sampling(message, own),
        rules=rules,
        over=_OVER[message.over],
        template=template,
        prompts=prompts,
    )


def worker_to_proto(number: int, record: WorkerRecord) -> types_pb2.WorkerUsage:
    """What became of a worker."""
    return types_pb2.WorkerUsage(
        number=number,
        name=record.name,
        tokens=len(record.token_ids),
        steps=record.steps,
        self_checks=record.checks,
        finish=_FINISH[record.finish],
    )


def _sampling(message: types_pb2.Workers, own: SamplingParams) -> tuple[SamplingParams, ...]:
    count, given = message.count, message.sampling
    if any(entry.max_tokens or entry.stop for entry in given):
        raise BadQuestion("workers.sampling: max_tokens and stop must be unset; see workers.max_tokens")
    entries = [
        SamplingParams(temperature=entry.temperature, top_p=entry.top_p or 1.0, seed=entry.seed)
        for entry in given
    ] or [own]
    if len(entries) == 1:
        return tuple(replace(entries[0], seed=(entries[0].seed + w) % (1 << 64)) for w in range(count))
    if len(entries) != count:
        raise BadQuestion(
            f"workers.sampling has {len(entries)} entries for {count} workers; give one each, or one"
        )
    return tuple(entries)


def _check_openings(template: Template, count: int, steps: int, prompt: PromptLayout, limit: int) -> None:
    """Raise BadQuestion unless all workers may open a step in one pass, up to their step number `steps`."""
    total = 0
    for worker in range(count):
        texts = (
            template.opening(worker, 1, count),
            template.opening(worker, max(steps, 2), count, checks=True),
        )
        total += max(len(prompt.encode_text(text)) if text else 0 for text in texts)
    if total > limit:
        raise BadQuestion(
            f"{count} workers of this template open their steps with up to {total} tokens; "
            f"at most {limit} fit here: ask for fewer workers, or shorten the template"
        )
