"""Policies of thinking through the Python client, real services and the options of `tandem up`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tandem.client import (
    MediaKind,
    PictureFormat,
    Sampling,
    Thinking,
    ThinkingEviction,
    ThinkingHeads,
    ThinkingRollover,
    ThinkingVerifier,
    connect,
)
from tandem.core.errors import BadQuestion
from tandem.wire.channel import make_channel
from tests.integration.up_processes import PERIOD_MS, Front, Up, picture

pytestmark = pytest.mark.timeout(300)
SCORES = [[0.1, 0.9]] * 3


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("thinking")
    (folder / "scores.json").write_text(json.dumps(SCORES))
    running = Up(folder / "run", "--head-scores", str(folder / "scores.json"))
    try:
        yield running
    finally:
        running.stop()


async def test_what_a_client_asks_for_is_done_and_told(up: Up) -> None:
    async with make_channel(up.address()) as channel:
        await Front(channel).ready()
    async with (
        connect(up.address()) as client,
        client.watch(MediaKind.PICTURES, stream_id="door") as stream,
    ):
        for index in range(4):
            await stream.push_picture(
                picture(index), pts_us=index * PERIOD_MS * 1000, picture_format=PictureFormat.PNG
            )

        async def dropped(**wishes: object) -> tuple[int, int]:
            thinking = Thinking(max_tokens=40, **wishes)  # type: ignore[arg-type]
            answer = await stream.ask(
                "What was shown?",
                sampling=Sampling(max_tokens=6),
                latency_budget_s=90,
                thinking=thinking,
            )
            usage = answer.usage.thinking
            assert usage is not None
            assert answer.usage.answer_tokens <= 6
            return usage.dropped_tokens, usage.rounds

        assert await dropped() == (0, 1)
        assert await dropped(heads=ThinkingHeads(sparsity=0.5, recent=4)) == (0, 1)
        assert await dropped(verifier=ThinkingVerifier()) == (0, 1)
        gone, rounds = await dropped(eviction=ThinkingEviction(capacity=16, window=8))
        assert gone > 20
        assert rounds == 1
        gone, rounds = await dropped(rollover=ThinkingRollover(round_tokens=10, summary_tokens=4))
        assert gone > 20
        assert rounds > 1
        with pytest.raises(BadQuestion, match="--difficulty-probe"):
            await dropped(adaptive=True)
