"""Whatever a model writes, its thinking ends: markers, blanks and half characters at random."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from reasoner_svc.thinking.asking import thinking_wish
from tandem.vlm.load import load_model
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.reasoner_svc.engines import answer, ask, running
from tests.unit.reasoner_svc.making import encode_clip, make_frames

CASES, ANSWER_TOKENS, MOST_ROUNDS, MOST_SUMMARY = 60, 6, 4, 10
MARKED = 60
"""More tokens than the markers and closing words that are said for the model in one round."""
TEXTS = (
    *("</think>", "\n<summary>", "</summary>", "<subtasks>", "</subtasks>"),
    *(" ", "\n\n", "x", "the answer is red\n\n"),
)


def script(rng: random.Random, prompt: Any) -> Iterator[int]:
    """Some pieces, then a few of them for ever."""
    pieces = [prompt.encode_text(text) for text in TEXTS]
    pieces += [[next(iter(prompt.eos_ids))], prompt.encode_text("é")[:1], special(prompt)]
    weights = [rng.random() ** 3 for _ in pieces]
    first = rng.choices(pieces, weights, k=rng.randint(0, 12))
    again = rng.choices(pieces, weights, k=rng.randint(1, 3))
    return itertools.chain(itertools.chain(*first), itertools.cycle([*itertools.chain(*again)]))


def special(prompt: Any) -> list[int]:
    """A token that has no text and ends nothing."""
    return next([token] for token in range(300) if not prompt.decode([token]) and token not in prompt.eos_ids)


def wishes(rng: random.Random, budget: int) -> types_pb2.Thinking:
    wish = types_pb2.Thinking(max_tokens=budget, closing=".")
    if rng.random() < 0.7:
        wish.rollover.round_tokens = rng.randint(1, 40)
        wish.rollover.summary_tokens = rng.randint(1, MOST_SUMMARY)
        wish.rollover.max_rounds = rng.randint(1, MOST_ROUNDS)
    if rng.random() < 0.3:
        wish.subtasks.keep = rng.randint(0, 1)
    if rng.random() < 0.2:
        wish.verifier.SetInParent()
    wish.convergence, wish.loop_guard = rng.random() < 0.3, rng.random() < 0.3
    return wish


async def test_thinking_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model("dummy:tiny")
    bare = model.prompt.question_tokens("what?")
    end = model.prompt.question_span(bare)[1]
    limits = {"prefill_chunk": 256, "tick_tokens": 300}
    async with running(model, encode_clip(model, make_frames(model, 2)), **limits) as (engine, fatal):
        for seed in range(CASES):
            rng = random.Random(seed)
            said = script(rng, model.prompt)
            monkeypatch.setattr(
                "reasoner_svc.decode.sampler.Sampler.choose",
                lambda self, logits, said=said: next(said),
            )
            budget = rng.choice((0, 1, 5, 20, 60))
            message = wishes(rng, budget)
            wish, opening = thinking_wish(message, model.prompt, 300, "what?", end)
            asked = {"prompt_ids": (*bare, *opening), "thinking": wish, "max_tokens": ANSWER_TOKENS}
            async with asyncio.timeout(20):
                record = await answer(ask(engine, model, **asked)[1])
            assert record.thinking is not None
            assert record.thinking.rounds <= max(1, message.rollover.max_rounds), seed
            assert len(record.token_ids) - record.thinking.tokens <= ANSWER_TOKENS, seed
            most = budget + MOST_ROUNDS * (MOST_SUMMARY + MARKED) + MARKED
            assert record.thinking.tokens <= most, seed
        stats = await engine.flush()
        assert (stats.questions, stats.leases, stats.tail_bytes, fatal) == (0, 0, 0, [])
