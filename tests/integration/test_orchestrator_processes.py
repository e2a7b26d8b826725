"""Real services as child processes, killed and frozen in mid-stream: only what was theirs alone is lost.

Recovery times go to the log (`-rP` shows them); `docs/recovery.md` quotes them.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.integration.orchestrator_fakes import Client
from tests.integration.up_processes import (
    PERIOD_MS,
    START_S,
    Front,
    Up,
    ask,
    front_of,
    h264,
    push,
    running_up,
)

FRAMES = 16
"""Two to a block of the dummy model."""
PIECES = h264(frames=80, fps=10, keyframe_every=15)
STREAM = b"".join(PIECES)

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("up") / "run") as running:
        yield running


@pytest.fixture
async def front(up: Up) -> AsyncIterator[Front]:
    async with front_of(up) as front:
        yield front


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    """What an undisturbed stream was answered, once it was asked."""
    return {}


async def check_whole(
    front: Front, client: Client, answer: client_pb2.Answer, reference: dict[str, str]
) -> None:
    """Every frame is in view, none twice, and the text is the one of an undisturbed stream."""
    assert answer.error.code == "", answer.error
    assert answer.evidence.blocks == FRAMES // 2
    assert [(r.start_us, r.end_us) for r in answer.evidence.seen] == [(0, FRAMES * PERIOD_MS * 1000)]
    assert not client.progress.gaps
    if "text" not in reference:
        whole = await front.watch("reference")
        await push(whole, 0, FRAMES)
        reference["text"] = (await ask(whole, "q")).text
        await whole.end(forget=True)
        await whole.finished(30)
    assert answer.text == reference["text"]


async def begin_encoded(front: Front, name: str) -> Client:
    """An encoded stream beside one of pictures: the first two thirds of it, and some blocks published."""
    client = await front.watch(f"h264-{name}", kind=types_pb2.MEDIA_KIND_H264_ANNEX_B, nominal_fps=10.0)
    await push_encoded(client, PIECES[: len(PIECES) * 2 // 3], 0)
    await client.until(lambda: client.progress.blocks >= 3, START_S)
    return client


async def push_encoded(client: Client, pieces: Sequence[bytes], offset: int) -> None:
    for piece in pieces:
        await client.chunk(offset, piece)
        offset += len(piece)
        await asyncio.sleep(0.01)


async def push_rest(client: Client) -> None:
    """The last third: right after the loss, while nobody takes it."""
    at = len(PIECES) * 2 // 3
    await push_encoded(client, PIECES[at:], sum(map(len, PIECES[:at])))


async def end_encoded(front: Front, name: str, client: Client, reference: dict[str, str]) -> None:
    """Nothing is missing, and the text is that of the others."""
    await client.end()
    await client.finished(START_S)
    # Asked over another call: this one may end as soon as all is published.
    answer = await front.ask(f"h264-{name}")
    assert client.goodbye is not None
    assert not client.goodbye.progress.gaps
    assert client.goodbye.progress.watermark_us == 8_000_000
    assert answer.evidence.blocks == 8
    assert answer.text == reference.setdefault("h264", answer.text)
    assert not client.refusals


async def test_undisturbed(front: Front, reference: dict[str, str]) -> None:
    encoded = await begin_encoded(front, "undisturbed")
    client = await front.watch("undisturbed")
    await push(client, 0, FRAMES)
    await check_whole(front, client, await ask(client, "q"), reference)
    await client.end(forget=True)
    await client.finished(30)
    assert client.goodbye is not None
    await push_rest(encoded)
    await end_encoded(front, "undisturbed", encoded, reference)


# By default one of each: an encoder that is killed, a reasoner that is frozen.
@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
async def test_a_lost_encoder_loses_nothing(
    front: Front, reference: dict[str, str], how: signal.Signals
) -> None:
    name = f"encoder-{how.name}"
    encoded = await begin_encoded(front, name)
    client = await front.watch(name)
    await push(client, 0, FRAMES // 2)
    await client.until(lambda: client.progress.blocks >= 2, START_S)
    os.kill(await front.pid("encoder-0"), how)
    began_s = time.monotonic()
    await push(client, FRAMES // 2, FRAMES)
    await push_rest(encoded)
    now = types_pb2.Sampling(max_tokens=8)
    await client.ask("meanwhile", "What was shown?", answer_from_published=True, sampling=now)
    assert (await client.answer("meanwhile", 30)).error.code == ""
    answer = await ask(client, "after")
    print(f"{how.name} encoder: whole again after {time.monotonic() - began_s:.2f} s")
    await check_whole(front, client, answer, reference)
    await client.end(forget=True)
    await client.finished(30)
    await end_encoded(front, name, encoded, reference)


@pytest.mark.parametrize("how", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGSTOP])
async def test_a_lost_reasoner_is_rebuilt_from_the_backlog(
    front: Front, reference: dict[str, str], how: signal.Signals
) -> None:
    name = f"reasoner-{how.name}"
    encoded = await begin_encoded(front, name)
    client = await front.watch(name)
    await push(client, 0, FRAMES // 2)
    await client.until(lambda: client.progress.blocks >= 2, START_S)
    os.kill(await front.pid("reasoner-0"), how)
    began_s = time.monotonic()
    await push(client, FRAMES // 2, FRAMES)
    await push_rest(encoded)
    answer = await ask(client, "after")
    print(f"{how.name} reasoner: whole again after {time.monotonic() - began_s:.2f} s")
    await check_whole(front, client, answer, reference)
    await client.end(forget=True)
    await client.finished(30)
    await end_encoded(front, name, encoded, reference)


@pytest.mark.slow
async def test_both_services_lost_at_once(front: Front, reference: dict[str, str]) -> None:
    client = await front.watch("both")
    await push(client, 0, FRAMES // 2)
    await client.until(lambda: client.progress.blocks >= 2, START_S)
    for name in ("encoder-0", "reasoner-0"):
        os.kill(await front.pid(name), signal.SIGKILL)
    await push(client, FRAMES // 2, FRAMES)
    await check_whole(front, client, await ask(client, "after"), reference)
    await client.end(forget=True)
    await client.finished(30)


async def test_a_killed_orchestrator_is_replaced_and_says_what_is_gone(front: Front) -> None:
    encoded = await front.watch("h264-orchestrator", kind=types_pb2.MEDIA_KIND_H264_ANNEX_B, nominal_fps=10.0)
    await encoded.chunk(0, STREAM[: len(STREAM) * 2 // 3])
    await encoded.until(lambda: encoded.progress.safe_position > 0 and encoded.progress.blocks >= 3, START_S)
    first = await front.watch("orchestrator")
    await push(first, 0, FRAMES // 2)
    await first.until(lambda: first.progress.safe_position >= FRAMES // 4, START_S)
    former = {name: await front.pid(name) for name in ("orchestrator", "encoder-0", "reasoner-0")}
    os.kill(former["orchestrator"], signal.SIGKILL)
    began_s = time.monotonic()
    await first.finished(30)
    second = await front.watch("orchestrator", first.welcome.resume_token)
    assert not second.welcome.resumed
    safe = second.welcome.next_position
    assert first.progress.safe_position <= safe <= FRAMES // 2
    await push(second, safe, FRAMES)
    answer = await ask(second, "after")
    print(f"SIGKILL orchestrator: watching again after {time.monotonic() - began_s:.2f} s")
    assert answer.error.code == ""
    assert answer.evidence.blocks == (FRAMES - safe) // 2
    [gap] = second.progress.gaps
    assert gap.reason == types_pb2.GAP_REASON_ORCHESTRATOR_LOST
    assert (gap.range.start_us, gap.range.end_us) == (0, safe * PERIOD_MS * 1000)
    for name, pid in former.items():
        assert await front.pid(name) != pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    await second.end(forget=True)
    await second.finished(30)
    await encoded.finished(30)
    await check_encoded_goes_on(front, encoded)


async def check_encoded_goes_on(front: Front, first: Client) -> None:
    kind = types_pb2.MEDIA_KIND_H264_ANNEX_B
    second = await front.watch("h264-orchestrator", first.welcome.resume_token, kind=kind)
    at = second.welcome.next_position
    assert at >= first.progress.safe_position
    await second.chunk(at, STREAM[at:])
    await second.end()
    await second.finished(START_S)
    assert second.goodbye is not None
    [gap] = second.goodbye.progress.gaps
    assert gap.reason == types_pb2.GAP_REASON_ORCHESTRATOR_LOST
    assert gap.range.start_us == 0
    assert gap.range.end_us % 1_000_000 == 0, "units of this model last a second"
    assert second.goodbye.progress.watermark_us == 8_000_000
    assert second.goodbye.progress.blocks == 8 - gap.range.end_us // 1_000_000


def test_it_stops_and_leaves_nothing(up: Up) -> None:
    pids = _children(up.process.pid)
    assert len(pids) == 3, pids
    assert up.stop() == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def _children(pid: int) -> list[int]:
    direct = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return direct + [grandchild for child in direct for grandchild in _children(child)]
