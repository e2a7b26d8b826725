"""What policies do to a question's own text, token by token against slow, literal forms of their papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kv_transfer.block import Block
from reasoner_svc.decode.question import AnswerRecord, AskedQuestion
from reasoner_svc.thinking.asking import thinking_wish
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.parity.literal_masked import LiteralMasked
from tests.parity.test_workers import TOLERANCE, Recording, asked_of, context, ours
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


def asked_with(model: Any, answer_tokens: int = 16, **thinking: Any) -> AskedQuestion:
    wish, opening = thinking_wish(types_pb2.Thinking(**thinking), model.prompt, 10**6)
    prompt_ids = (*model.prompt.question_tokens("what?"), *opening)
    return asked_of(model, None, answer_tokens, thinking=wish, prompt_ids=prompt_ids)


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
