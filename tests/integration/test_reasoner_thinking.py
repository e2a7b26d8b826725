"""Thinking under control, through a running reasoner: what goes out as what, and what ends it."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from kv_transfer.block import Block
from reasoner_svc.thinking.asking import CLOSE, CLOSING, OPEN
from reasoner_svc.thinking.difficulty import Difficulty
from reasoner_svc.thinking.probe import fit_probe, save_probe
from tandem.core.errors import BadQuestion
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, types_pb2
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import Serving, error_of, serve

ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: VisionLanguageModel) -> list[Block]:
    return encode_clip(model, make_frames(model, 4))


class Heard:
    """What came of a question, by kind and in order."""

    def __init__(self) -> None:
        self.thoughts, self.answer, self.order = "", "", ""
        self.final: Any = None


def call(serving: Serving, text: str = "what is it?", **options: Any) -> Any:
    question = types_pb2.Question(question_id="q", text=text, **options)
    return serving.stub.Answer(reasoner_pb2.AnswerRequest(stream_id="cam", question=question))


async def hear(serving: Serving, **options: Any) -> Heard:
    options.setdefault("sampling", types_pb2.Sampling(max_tokens=ANSWER_TOKENS))
    running, heard = call(serving, **options), Heard()
    while (response := await running.read()) is not grpc.aio.EOF:
        match response.WhichOneof("event"):
            case "thought":
                heard.thoughts += response.thought.text
                heard.order += "t"
                assert response.thought.time_us > 0
            case "delta":
                heard.answer += response.delta
                heard.order += "a"
            case _:
                heard.final = response.final
    assert "at" not in heard.order, "a thought after the answer began"
    assert heard.final.text == heard.answer
    return heard


def thinking(**fields: Any) -> dict[str, Any]:
    return {"thinking": types_pb2.Thinking(**fields)}


async def test_the_budget_ends_thinking_and_the_answer_has_its_own(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    forced = model.prompt.encode_text(CLOSING + CLOSE)
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        for budget in (0, 1, 20):
            heard = await hear(serving, **thinking(max_tokens=budget))
            usage = heard.final.usage
            assert usage.thinking_tokens == budget + len(forced)
            assert usage.answer_tokens == ANSWER_TOKENS
            assert heard.final.finish_reason == types_pb2.FINISH_REASON_LENGTH
            assert f"{budget} tokens" in usage.thinking_closed_by
            assert heard.thoughts.endswith(CLOSING)
            assert CLOSE not in heard.thoughts + heard.answer
        await serving.idle()


async def test_what_was_forced_is_as_if_the_prompt_had_held_it(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    """The answer after thinking is that of the same tokens given as a prompt."""
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        thought = await hear(serving, **thinking(max_tokens=9))
        made = list(thought.final.token_ids)
        usage = thought.final.usage
        prompt = model.prompt.question_tokens("what is it?") + model.prompt.encode_text(OPEN)
        assert usage.prompt_tokens == len(prompt)
        plain = await greedy(model, blocks, [*prompt, *made[: usage.thinking_tokens]], usage.answer_tokens)
        assert made[usage.thinking_tokens :] == plain


async def greedy(model: VisionLanguageModel, blocks: list[Block], prompt: list[int], count: int) -> list[int]:
    from tests.unit.reasoner_svc.test_engine import answer, ask, running

    async with running(model, blocks) as (engine, _):
        outbox = ask(engine, model, prompt_ids=tuple(prompt), max_tokens=count)[1]
        return list((await answer(outbox)).token_ids)


async def test_a_loop_ends_thinking_and_then_the_answer(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    token = model.prompt.encode_text("x")[0]
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: token)
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        sampling = types_pb2.Sampling(max_tokens=100)
        heard = await hear(serving, sampling=sampling, **thinking(max_tokens=500, loop_guard=True))
        assert heard.final.finish_reason == types_pb2.FINISH_REASON_LOOP
        assert "24 times" in heard.final.usage.thinking_closed_by
        assert heard.answer.strip("x") == ""
        unguarded = await hear(serving, sampling=sampling, **thinking(max_tokens=50))
        assert unguarded.final.finish_reason == types_pb2.FINISH_REASON_LENGTH


async def test_thinking_that_ends_its_turn_still_owes_an_answer(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, token = next(iter(model.prompt.eos_ids)), model.prompt.encode_text("y")[0]
    script = iter([token, token, end, token, end])
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving, **thinking(max_tokens=100))
    assert heard.thoughts == "yy" + CLOSING
    assert heard.answer == "y"
    assert heard.final.finish_reason == types_pb2.FINISH_REASON_END
    assert "ended its turn" in heard.final.usage.thinking_closed_by


async def test_the_models_own_marker_ends_thinking(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    end = next(iter(model.prompt.eos_ids))
    spoken = [*model.prompt.encode_text("it was red" + CLOSE + "red"), end]
    script = iter(spoken)
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving, **thinking(max_tokens=100))
    assert (heard.thoughts, heard.answer) == ("it was red", "red")
    assert heard.final.usage.thinking_closed_by == ""
    assert heard.final.usage.thinking_tokens + heard.final.usage.answer_tokens == len(spoken) - 1


async def test_a_model_that_summarises_by_itself_begins_another_round(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    """InftyThink's own form: the model closes a round with a summary, and the last one with the answer."""
    end = next(iter(model.prompt.eos_ids))
    spoken = ["one" + CLOSE + "\n<summary>so far</summary>", "two" + CLOSE + " red"]
    script = iter([*(token for text in spoken for token in model.prompt.encode_text(text)), end])
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving, **thinking(max_tokens=100, rollover=types_pb2.ThinkingRollover()))
        usage = heard.final.usage
        assert (heard.thoughts, heard.answer) == ("oneso fartwo", " red")
        assert (usage.thinking.rounds, usage.thinking.dropped_tokens) == (2, len(spoken[0]))
        assert usage.answer_tokens == len("red"), "a blank alone may still be before a summary"
        await serving.idle()


@pytest.mark.parametrize("forced", [False, True])
async def test_white_space_behind_the_marker_is_the_answers(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch, forced: bool
) -> None:
    """It could still become a summary, but not for ever: the answer's budget ends it."""
    script = iter([] if forced else model.prompt.encode_text("hm</think>"))
    blank = model.prompt.encode_text(" ")[0]
    monkeypatch.setattr(
        "reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script, blank)
    )
    rounds = types_pb2.ThinkingRollover(round_tokens=100, summary_tokens=20, max_rounds=2)
    async with serve(model) as serving, asyncio.timeout(30):
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving, **thinking(max_tokens=5 if forced else 50, rollover=rounds))
        assert heard.final.finish_reason == types_pb2.FINISH_REASON_LENGTH
        assert heard.final.usage.answer_tokens == ANSWER_TOKENS
        assert heard.answer.strip() == ""
        await serving.idle()


@pytest.mark.parametrize("ends_turn", [False, True])
async def test_a_model_that_always_summarises_has_no_more_rounds_than_allowed(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch, ends_turn: bool
) -> None:
    """No summary of its last round ends by itself: it is ended for it, and the answer follows."""
    spoken = model.prompt.encode_text("hm</think>\n<summary>" + "x" * 8)
    script = itertools.cycle([*spoken, next(iter(model.prompt.eos_ids))] if ends_turn else spoken)
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))
    rounds = types_pb2.ThinkingRollover(round_tokens=100, summary_tokens=9 if ends_turn else 8, max_rounds=3)
    async with serve(model) as serving, asyncio.timeout(30):
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving, **thinking(max_tokens=200, rollover=rounds))
        usage = heard.final.usage
        assert usage.thinking.rounds == 3
        assert usage.answer_tokens == ANSWER_TOKENS
        assert heard.answer
        assert "summary" not in heard.thoughts
        assert heard.thoughts.count("x" * 8) == 3
        await serving.idle()


@pytest.mark.parametrize("late", [0, 1])
async def test_a_budget_that_ends_as_the_model_closes_a_round_ends_the_next(
    model: VisionLanguageModel, blocks: list[Block], monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """The marker was its own, so nothing was said for it; the round that follows has no budget left."""
    script = iter(model.prompt.encode_text("hm</think>\n<summary>so</summary>"))
    letter = model.prompt.encode_text("x")[0]
    monkeypatch.setattr(
        "reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script, letter)
    )
    budget = len("hm</think>") + late
    async with serve(model) as serving, asyncio.timeout(30):
        await serving.open()
        serving.publish(*blocks)
        rounds = types_pb2.ThinkingRollover(round_tokens=budget, summary_tokens=3, max_rounds=3)
        heard = await hear(serving, **thinking(max_tokens=budget, rollover=rounds))
        usage = heard.final.usage
        assert usage.thinking.rounds == 2
        assert usage.answer_tokens == ANSWER_TOKENS
        assert f"{budget} tokens" in usage.thinking_closed_by
        assert "x" not in heard.thoughts
        await serving.idle()


async def test_what_left_of_the_text_is_told(model: VisionLanguageModel, blocks: list[Block]) -> None:
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        eviction = types_pb2.ThinkingEviction(capacity=16, window=8, threshold=0.01)
        heard = await hear(serving, **thinking(max_tokens=40, eviction=eviction))
        usage = heard.final.usage
        fed = usage.thinking_tokens + usage.answer_tokens - 1
        assert 8 <= fed - usage.thinking.dropped_tokens < 16 + 8
        none = types_pb2.ThinkingEviction(capacity=1000, window=8)
        kept, plain = [
            await hear(serving, **thinking(max_tokens=40, **wish)) for wish in ({"eviction": none}, {})
        ]
        assert kept.final.usage.thinking.dropped_tokens == 0
        assert kept.final.token_ids == plain.final.token_ids
        await serving.idle()


async def test_bad_wishes_are_refused_with_their_name(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        for wish, word in (
            ({"max_tokens": 10**6}, "thinking.max_tokens"),
            ({"close": "x" * 65}, "thinking.close"),
            ({"open": "x" * 65}, "thinking.open"),
            ({"closing": "x" * 1001}, "thinking.closing"),
            ({"eviction": types_pb2.ThinkingEviction(window=513)}, "thinking.eviction.window"),
            ({"eviction": types_pb2.ThinkingEviction(capacity=7, window=8)}, "thinking.eviction.capacity"),
            ({"eviction": types_pb2.ThinkingEviction(threshold=1)}, "thinking.eviction.threshold"),
            ({"eviction": types_pb2.ThinkingEviction(threshold=float("nan"))}, "thinking.eviction.threshold"),
        ):
            error = await error_of(call(serving, **thinking(**wish)))
            assert isinstance(error, BadQuestion)
            assert word in error.message
        for wish, word in (
            ({"rollover": types_pb2.ThinkingRollover(round_tokens=10**6)}, "rollover.round_tokens"),
            ({"rollover": types_pb2.ThinkingRollover(summary_tokens=2049)}, "rollover.summary_tokens"),
            ({"rollover": types_pb2.ThinkingRollover(max_rounds=65)}, "rollover.max_rounds"),
            ({"rollover": {"summary_tokens": 1024, "max_rounds": 64}}, "65536 tokens"),
            ({"rollover": types_pb2.ThinkingRollover(open="x" * 65)}, "rollover.open"),
            ({"rollover": types_pb2.ThinkingRollover(open=" x")}, "white space"),
            ({"subtasks": types_pb2.ThinkingSubtasks(open="a", close="ab")}, "told apart"),
            ({"subtasks": types_pb2.ThinkingSubtasks(keep=17)}, "subtasks.keep"),
            ({"subtasks": {}, "eviction": {}}, "neither"),
            ({"heads": {}, "eviction": {}}, "neither"),
            ({"heads": {}}, "--head-scores"),
            ({"adaptive": True}, "--difficulty-probe"),
            ({"verifier": types_pb2.ThinkingVerifier(yes="one", no="other")}, "same token"),
            ({"verifier": types_pb2.ThinkingVerifier(yes="x" * 65)}, "verifier.yes"),
        ):
            assert word in (await error_of(call(serving, **thinking(**wish)))).message
        both = thinking() | {"workers": types_pb2.Workers(count=2)}
        assert "not both" in (await error_of(call(serving, **both))).message
        await serving.idle()


async def test_without_thinking_the_path_is_the_plain_one(
    model: VisionLanguageModel, blocks: list[Block]
) -> None:
    async with serve(model) as serving:
        await serving.open()
        serving.publish(*blocks)
        heard = await hear(serving)
        plain = await greedy(
            model, blocks, model.prompt.question_tokens("what is it?"), len(heard.final.token_ids)
        )
        assert list(heard.final.token_ids) == plain
        assert heard.final.usage.thinking_tokens == 0


async def test_a_reasoner_with_scores_and_a_probe_takes_wishes_for_them(
    model: VisionLanguageModel, blocks: list[Block], tmp_path: Path
) -> None:
    scores, probe = tmp_path / "scores.json", tmp_path / "probe.safetensors"
    scores.write_text(json.dumps([[0.2, 0.8]] * model.layout.layers))
    states = torch.randn(3, model.embed([0]).shape[1])
    save_probe(fit_probe(states, list(Difficulty), epochs=1), probe, model.fingerprint)
    async with serve(model, head_scores=str(scores), difficulty_probe=str(probe)) as serving:
        await serving.open()
        serving.publish(*blocks)
        heads = types_pb2.ThinkingHeads(sparsity=0.5, recent=8)
        heard = await hear(serving, **thinking(max_tokens=20, adaptive=True, heads=heads))
        assert heard.final.usage.thinking.plan.split()[0] in {each.value for each in Difficulty}
        for wish, word in (
            ({"sparsity": 1.5}, "sparsity"),
            ({"sparsity": float("nan")}, "sparsity"),
            ({"sink": 10**6}, "more than"),
        ):
            error = await error_of(call(serving, **thinking(heads=types_pb2.ThinkingHeads(**wish))))
            assert isinstance(error, BadQuestion)
            assert word in error.message
        await serving.idle()


@pytest.mark.parametrize(
    "wish", [{"rollover": {"round_tokens": 9, "summary_tokens": 5}}, {"eviction": {"window": 4}}]
)
async def test_leaving_in_the_middle_frees_everything(
    model: VisionLanguageModel, blocks: list[Block], wish: dict[str, Any]
) -> None:
    async with serve(model, prefill_chunk=4) as serving:
        await serving.open()
        serving.publish(*blocks)
        for pieces in (1, 6, 12):
            running = call(serving, **thinking(max_tokens=400, **wish))
            for _ in range(pieces):
                await running.read()
            running.cancel()
            await serving.idle()
