"""What policies do to a question's own text, token by token against slow, literal forms of their papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion
from reasoner_svc.thinking.asking import thinking_wish
from reasoner_svc.thinking.second import SecondQuestion
from reasoner_svc.thinking.tools import NO_TOOLS, ThinkingTools
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.parity.literal_hogwild import Context
from tests.parity.literal_masked import LiteralMasked
from tests.parity.test_workers import RECALLED, RECENT, TOLERANCE, Recording, asked_of, context, ours
from tests.unit.reasoner_svc.literal_lazy import LiteralLazy
from tests.unit.reasoner_svc.making import encode_clip, make_frames

pytestmark = pytest.mark.timeout(300)
UNITS = 4


class Endless:
    """A prompt layout of which no token ends a turn; the rest is the model's."""

    eos_ids: frozenset[int] = frozenset()

    def __init__(self, prompt: Any) -> None:
        self._prompt = prompt

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prompt, name)


def record_of(model: Any) -> Recording:
    """The model; it keeps the logits it gave."""
    recording = Recording(model)
    recording.prompt = Endless(model.prompt)  # type: ignore[assignment]
    return recording


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("dummy:tiny")


@pytest.fixture(scope="module")
def stock(model: Any) -> Any:
    return stock_model("dummy:tiny")


@pytest.fixture(scope="module")
def blocks(model: Any) -> list[Block]:
    return encode_clip(model, make_frames(model, UNITS))


def asked_with(
    model: Any, answer_tokens: int = 16, tools: ThinkingTools = NO_TOOLS, **thinking: Any
) -> AskedQuestion:
    bare = model.prompt.question_tokens("what?")
    end = model.prompt.question_span(bare)[1]
    message = types_pb2.Thinking(**thinking)
    wish, opening = thinking_wish(message, model.prompt, 10**6, "what?", end, tools)
    return asked_of(model, None, answer_tokens, thinking=wish, prompt_ids=(*bare, *opening))


def close_to(ours_row: Tensor, row: Tensor) -> bool:
    return float((ours_row - row).abs().max()) < TOLERANCE * float(row.abs().max())


class Replay:
    """The same question in the literal form, fed with the tokens that were chosen."""

    def __init__(self, stock: Any, seen: Any, asked: AskedQuestion, record: AnswerRecord) -> None:
        self.math = LiteralMasked(stock, seen)
        self.start = record.plan.answer_start
        positions = torch.tensor(record.plan.question_base)[:, None] + torch.arange(len(asked.prompt_ids))
        self.row = self.math.read(asked.prompt_ids, positions)
        self.fixed = self.math.before + len(asked.prompt_ids)
        """Tokens before the generated ones."""

    def step(self, step: int, token: int, sees: Any) -> None:
        self.row = self.math.read([token], torch.full((3, 1), self.start + step - 1), sees)


async def test_eviction_equals_the_papers_form_step_by_step(
    model: Any, stock: Any, blocks: list[Block]
) -> None:
    wish = types_pb2.ThinkingEviction(capacity=20, window=8, threshold=0.012)
    recording = record_of(model)
    asked = asked_with(recording, 40, eviction=wish, max_tokens=30)
    record = await ours(recording, blocks, asked)
    replay = Replay(stock, context(model, stock, blocks), asked, record)
    heads, layout = stock.config.text_config.num_attention_heads, model.layout
    groups = heads // layout.kv_heads
    literal = [[LiteralLazy(20, 8, 0.012) for _ in range(layout.kv_heads)] for _ in range(layout.layers)]
    assert close_to(recording.rows[0], replay.row)
    for step, token in enumerate(record.token_ids[:-1], 1):

        def sees(layer: int, step: int = step) -> Tensor:
            mask = torch.zeros(layout.kv_heads, 1, replay.fixed + step, dtype=torch.bool)
            mask[:, :, : replay.fixed] = True
            for head, one in enumerate(literal[layer]):
                mask[head, :, [replay.fixed + held - 1 for held in [*one.held, step]]] = True
            return mask.repeat_interleave(groups, 0)

        replay.step(step, token, sees)
        assert close_to(recording.rows[step], replay.row), step
        for layer, ones in enumerate(literal):
            largest = replay.math.probabilities[layer][:, 0].view(layout.kv_heads, groups, -1).amax(1)
            for head, one in enumerate(ones):
                held = [*one.held, step]
                own = [float(largest[head, replay.fixed + token - 1]) for token in held]
                one.step(step, dict(zip(held, own, strict=True)))
    kept = {tuple(one.held) for ones in literal for one in ones}
    assert len(kept) > 1, "all heads kept the same: the test shows little"
    left = len(record.token_ids) - 1 - len(literal[0][0].held)
    assert record.thinking is not None
    assert record.thinking.dropped == left > 30


def from_nothing(stock: Any, seen: Any, record: AnswerRecord, prompt: list[int], text: list[int]) -> Tensor:
    """Logits behind a prompt and a text that are read in one go, as if nothing else had ever been there."""
    base = record.plan.question_base[0]
    assert set(record.plan.question_base) == {base}
    line = [*prompt, *text]
    return LiteralMasked(stock, seen).read(line, (base + torch.arange(len(line))).expand(3, -1))


async def test_a_round_stands_on_the_summary_of_the_one_before_it_and_on_nothing_else(
    model: Any, stock: Any, blocks: list[Block]
) -> None:
    recording = record_of(model)
    rollover = types_pb2.ThinkingRollover(round_tokens=12, summary_tokens=7, max_rounds=3)
    asked = asked_with(recording, 6, rollover=rollover, max_tokens=1000)
    record = await ours(recording, blocks, asked)
    wish, seen = asked.thinking, context(model, stock, blocks)
    assert wish is not None
    assert wish.rollover is not None
    made, prompt = list(record.token_ids), list(asked.prompt_ids)
    at = wish.rollover.question_end
    position = 0
    for _ in range(2):
        spoken = [12, len(wish.rollover.asking_ids), 7]
        for count in range(sum(spoken)):
            text = made[position : position + count]
            if count % 5 == 0:
                assert close_to(
                    recording.rows[position + count], from_nothing(stock, seen, record, prompt, text)
                )
        text = made[position : position + sum(spoken)]
        assert tuple(text[12 : -spoken[2]]) == wish.rollover.asking_ids
        summary = model.prompt.decode(text[-spoken[2] :]).strip()
        history = [
            *wish.rollover.before_ids,
            *model.prompt.encode_text(summary)[:14],
            *wish.rollover.after_ids,
        ]
        prompt = [*asked.prompt_ids[:at], *history, *asked.prompt_ids[at:]]
        position += sum(spoken)
    rest = made[position:]
    assert tuple(rest[12 : 12 + len(wish.closing_ids)]) == wish.closing_ids, "the last round is closed"
    assert len(rest) - 12 - len(wish.closing_ids) in range(6, 10), (
        "half characters may come before the answer"
    )
    for count in range(0, len(rest), 4):
        assert close_to(
            recording.rows[position + count], from_nothing(stock, seen, record, prompt, rest[:count])
        )
    assert record.thinking is not None
    assert (record.thinking.rounds, record.thinking.dropped) == (3, position)
    assert "3 rounds" in record.thinking.closed_by


@pytest.mark.parametrize("keep", [0, 1])
async def test_dropped_subtasks_leave_keys_and_values_that_never_saw_them(
    model: Any, stock: Any, blocks: list[Block], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    recording = record_of(model)
    asked = asked_with(recording, 4, subtasks=types_pb2.ThinkingSubtasks(keep=keep), max_tokens=200)
    words = (
        "plan<subtasks>a one<subtasks>x</subtasks>so</subtasks> it is<subtasks>b two</subtasks></think>red!!"
    )
    ids = model.prompt.encode_text(words)
    script = iter(ids)
    monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))
    record = await ours(recording, blocks, asked)
    assert list(record.token_ids) == ids[:-1], "the answer has its own budget"
    seen, standing = context(model, stock, blocks), ""
    prompt = list(asked.prompt_ids)
    letters = [model.prompt.decode([token]) for token in ids]
    assert "".join(letters) == words, "a token a letter, so that texts can be cut"
    kept = {0: ["<subtasks>x</subtasks>", "<subtasks>a oneso</subtasks>", "<subtasks>b two</subtasks>"]}
    kept[1] = ["<subtasks>a one<subtasks>x</subtasks>so</subtasks>"]
    dropped = 0
    for count, letter in enumerate(letters[:-1]):
        text = model.prompt.encode_text(standing) if standing else []
        if count % 4 == 0 or standing.endswith(">"):
            assert close_to(recording.rows[count], from_nothing(stock, seen, record, prompt, text)), count
        standing += letter
        finished = [one for one in kept[keep] if one in standing]
        if finished and (keep == 0 or standing.endswith("two</subtasks>")):
            standing = standing.replace(finished[0], "")
            dropped += len(finished[0])
    assert record.thinking is not None
    assert record.thinking.dropped == dropped > 20
    assert record.text == "red!"


async def test_the_verifier_is_a_question_of_its_own_beside_an_answer_that_it_does_not_change(
    model: Any, stock: Any, blocks: list[Block], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "red\n\nblue\n\nit may be</think>red"
    ids = model.prompt.encode_text(words)
    asked_about: list[str] = []
    second = SecondQuestion.__init__

    def told(self: SecondQuestion, model: Any, text: str) -> None:
        asked_about.append(text)
        second(self, model, text)

    monkeypatch.setattr(SecondQuestion, "__init__", told)
    rows = {}
    for name, wish in {"off": {}, "on": {"verifier": types_pb2.ThinkingVerifier()}}.items():
        script = iter(ids)
        monkeypatch.setattr("reasoner_svc.decode.sampler.Sampler.choose", lambda self, logits: next(script))  # noqa: B023
        recording = record_of(model)
        record = await ours(recording, blocks, asked_with(recording, 3, max_tokens=1000, **wish))
        assert list(record.token_ids) == ids
        rows[name] = recording.rows
    assert record.thinking is not None
    assert record.thinking.asked == len(asked_about) >= 2
    assert len(rows["on"]) == len(rows["off"]) + len(asked_about)
    sink = Context(
        [key[:, : blocks[0].header.tokens] for key in context(model, stock, blocks).keys],
        [value[:, : blocks[0].header.tokens] for value in context(model, stock, blocks).values],
    )
    left = list(rows["on"])
    for text in asked_about:
        prompt = model.prompt.question_tokens(text, max_tokens=10**6)
        start = blocks[0].header.tokens
        expected = LiteralMasked(stock, sink).read(prompt, (start + torch.arange(len(prompt))).expand(3, -1))
        at = next(at for at, row in enumerate(left) if close_to(row, expected))
        del left[at]
    assert all(torch.equal(mine, plain) for mine, plain in zip(left, rows["off"], strict=True))


SCORES = ((0.9, 0.1), (0.2, 0.8), (0.3, 0.7))


@pytest.mark.parametrize("whole_view", [False, True])
@pytest.mark.parametrize("sparsity", [0.5, 0.75, 1.0])
async def test_classes_of_heads_equal_an_explicit_mask(
    model: Any, stock: Any, blocks: list[Block], sparsity: float, whole_view: bool
) -> None:
    """RLKV: all heads read the prompt alike; then some see a sink and what is recent."""
    layout, sink, recent = model.layout, 6, 11
    assert (layout.layers, layout.kv_heads) == (len(SCORES), len(SCORES[0]))
    heads = types_pb2.ThinkingHeads(sparsity=sparsity, sink=sink, recent=recent, whole_view=whole_view)
    recording = record_of(model)
    tools = ThinkingTools(head_scores=SCORES)
    asked = asked_with(recording, 14, tools, heads=heads, max_tokens=20)
    record = await ours(recording, blocks, asked)
    replay = Replay(stock, context(model, stock, blocks), asked, record)
    groups = stock.config.text_config.num_attention_heads // layout.kv_heads
    bound = sorted(score for row in SCORES for score in row)[: int(sparsity * 6)][-1]
    assert close_to(recording.rows[0], replay.row)
    for step, token in enumerate(record.token_ids[:-1], 1):

        def sees(layer: int, step: int = step) -> Tensor:
            numbers = torch.arange(replay.fixed + step)
            first = 0 if whole_view else replay.fixed
            cut = (numbers < first + sink) | (numbers >= replay.fixed + step - recent)
            rows = [cut if score <= bound else torch.ones_like(cut) for score in SCORES[layer]]
            return torch.stack(rows)[:, None].repeat_interleave(groups, 0)

        replay.step(step, token, sees)
        assert close_to(recording.rows[step], replay.row), step


async def test_cut_heads_see_nothing_of_what_was_recalled(model: Any, stock: Any) -> None:
    blocks, recent, sink = encode_clip(model, make_frames(model, 8)), 45, 6
    recording, tools = record_of(model), ThinkingTools(head_scores=SCORES)
    heads = types_pb2.ThinkingHeads(sparsity=0.5, sink=sink, recent=recent, whole_view=True)
    asked = asked_with(recording, 6, tools, heads=heads, max_tokens=8)
    view_tokens = RECENT * blocks[-1].header.tokens
    record = await ours(recording, blocks, asked, view_tokens=view_tokens, retrieve_blocks=RECALLED)
    assert recording.recalled is not None
    replay = Replay(stock, context(model, stock, blocks, recording.recalled), asked, record)
    groups = stock.config.text_config.num_attention_heads // model.layout.kv_heads
    run_end = blocks[0].header.tokens + view_tokens  # the literal context has what was recalled behind it
    for step, token in enumerate(record.token_ids[:-1], 1):

        def sees(layer: int, step: int = step) -> Tensor:
            numbers = torch.arange(replay.fixed + step)
            left = recent - step - len(asked.prompt_ids)  # of the run; first more than it has, then nothing
            of_run = min(max(left, 0), view_tokens)
            cut = (numbers < sink) | (numbers >= max(replay.math.before, replay.fixed + step - recent))
            cut |= (numbers >= run_end - of_run) & (numbers < run_end)
            rows = [cut if score <= 0.3 else torch.ones_like(cut) for score in SCORES[layer]]
            return torch.stack(rows)[:, None].repeat_interleave(groups, 0)

        replay.step(step, token, sees)
        # What was recalled was chosen while the prompt was read, by a pass that the replay does not repeat.
        assert close_to(recording.rows[step], replay.row), step


async def test_no_heads_cut_is_bit_for_bit_as_before(model: Any, blocks: list[Block]) -> None:
    tools, rows = ThinkingTools(head_scores=SCORES), []
    for wish in ({}, {"heads": types_pb2.ThinkingHeads(sparsity=0.1, recent=5)}):
        recording = record_of(model)
        await ours(recording, blocks, asked_with(recording, 8, tools, max_tokens=12, **wish))
        rows.append(recording.rows)
    assert all(torch.equal(a, b) for a, b in zip(*rows, strict=True))
