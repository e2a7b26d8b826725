"""Three real processes, one stream, one question: what the metrics, the logs and the traces say of it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from encoder_svc.metrics import METRICS as ENCODER
from orchestrator.metrics import METRICS as ORCHESTRATOR
from reasoner_svc.metrics import METRICS as REASONER
from tandem.core.meters import LABELS
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import client_pb2, types_pb2
from tests.integration.scraping import Collector, Scrape, attributes, scrape
from tests.integration.up_processes import START_S, Front, Up, push

FRAMES = 24
"""Pictures, two a second. The dummy model watches one, which is a block; the other is skipped."""
BLOCKS = FRAMES // 2
QUESTION = "Which unmistakable words are these?"

pytestmark = pytest.mark.timeout(200)


async def test_what_real_services_show_of_a_known_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{collector.address}")
        up = Up(
            tmp_path / "run",
            *("--metrics", "127.0.0.1:0", "--log-format", "json", "--trace-frames", "0.05"),
            *("--view-tokens", "100", "--retrieve-blocks", "4", "--data-dir", str(tmp_path / "blocks")),
        )
        try:
            async with make_channel(await asyncio.to_thread(up.address)) as channel:
                answer, seen = await watch_and_ask(Front(channel), tmp_path / "up.log")
        finally:
            assert await asyncio.to_thread(up.stop) == 0
        check_metrics(seen, answer)
        check_traces(collector, answer)
    check_logs(tmp_path, answer)


async def watch_and_ask(front: Front, log: Path) -> tuple[client_pb2.Answer, dict[str, Scrape]]:
    await front.ready()
    client = await front.watch("cam")
    await push(client, 0, FRAMES)
    await client.until(lambda: client.progress.blocks == BLOCKS, START_S)
    sampling = types_pb2.Sampling(max_tokens=8)
    await client.ask("q", QUESTION, sampling=sampling)
    answer = await client.answer("q", START_S)
    assert answer.error.code == "", answer.error
    status = await front.status()
    assert all(int(service.details["max_streams"]) >= 256 for service in status.services)
    addresses = {service.role: service.details["metrics"] for service in status.services}
    found = re.search(r"metrics at http://([^/]+)/metrics", await asyncio.to_thread(log.read_text))
    assert found is not None
    addresses["orchestrator"] = found[1]
    seen = {role: await scrape(address) for role, address in addresses.items()}
    await client.end()
    await client.finished(START_S)
    return answer, seen


def check_metrics(seen: dict[str, Scrape], answer: client_pb2.Answer) -> None:
    front, encoder, reasoner = seen["orchestrator"], seen["encoder"], seen["reasoner"]
    for role, metrics in (("orchestrator", ORCHESTRATOR), ("encoder", ENCODER), ("reasoner", REASONER)):
        assert {metric.name for metric in metrics} <= seen[role].names, role
        assert seen[role].label_names() <= LABELS | {"le", "version"}, role
        assert seen[role]("process_resident_memory_bytes") > 0, role

    assert front("tandem_frames_total", outcome="received", reason="") == FRAMES
    assert front("tandem_blocks_published_total") == BLOCKS
    assert front("tandem_questions_total", outcome="length", reason="") == 1
    assert front("tandem_time_to_first_token_seconds_count") == 1

    assert encoder("tandem_frames_total", outcome="encoded", reason="") == BLOCKS
    assert encoder("tandem_frames_total", outcome="skipped", reason="") == FRAMES - BLOCKS
    assert encoder("tandem_frames_total", outcome="refused", reason="bad_media") == 0
    assert encoder("tandem_encode_batch_frames_sum") == BLOCKS
    assert encoder("tandem_decode_seconds_count") == FRAMES
    assert encoder("tandem_encode_seconds_count") == encoder("tandem_encode_batches_total") > 0
    assert encoder("tandem_frame_publish_seconds_count") == BLOCKS
    assert encoder("tandem_encoder_streams") == 1

    # Every block and the sink, byte for byte, on both ends of the wire and in RAM.
    sent = encoder("tandem_kv_transfer_bytes_total", outcome="sent")
    assert sent > 0
    assert reasoner("tandem_kv_transfer_bytes_total", outcome="received") == sent
    assert reasoner("tandem_kv_bytes", tier="ram") == sent
    assert encoder("tandem_kv_transfer_blocks_total", outcome="published", reason="") == BLOCKS + 1
    assert reasoner("tandem_kv_transfer_blocks_total", outcome="received", reason="") == BLOCKS + 1
    assert reasoner("tandem_kv_blocks", tier="any") == BLOCKS + 1
    assert encoder("tandem_kv_checksum_failures_total", tier="wire") == 0

    usage = answer.usage
    assert reasoner("tandem_generated_tokens_total", outcome="answer") == usage.answer_tokens == 8
    assert reasoner("tandem_context_tokens_sum") == usage.context_tokens
    assert reasoner("tandem_question_prefill_seconds_sum") == pytest.approx(
        answer.timings.prefill_ms / 1000, abs=1e-3
    )
    assert reasoner("tandem_retrieve_seconds_count") == 1
    assert reasoner("tandem_kv_lookups_total", tier="ram", outcome="found") == sum(
        block.layers for block in answer.evidence.recalled
    )
    # The pass that made the last token may end after the answer is told.
    assert reasoner("tandem_decode_step_seconds_count") >= 7
    assert reasoner("tandem_disk_degraded") == 0


def check_traces(collector: Collector, answer: client_pb2.Answer) -> None:
    asked = collector.of_trace("question")
    parents = {
        "question": "",
        "wait_frames": "question",
        "answer": "question",
        "queue": "answer",
        "prefill": "answer",
        "retrieve": "prefill",
        "decode": "answer",
    }
    check_tree(asked, parents)
    assert {name: role for name, (role, _) in asked.items()} == {
        name: "tandem-orchestrator" if name in ("question", "wait_frames") else "tandem-reasoner"
        for name in parents
    }
    question = attributes(asked["question"][1])
    assert question["gen_ai.usage.output_tokens"] == answer.usage.answer_tokens
    assert question["tandem.stream"] == "cam"
    retrieved = attributes(asked["retrieve"][1])
    assert retrieved["tandem.blocks"] == len(answer.evidence.recalled) == 4
    assert retrieved["tandem.ram_layers"] > 0
    assert retrieved["tandem.disk_layers"] == 0

    frame = collector.of_trace("frame")
    path = {"frame": "", "backlog": "frame", "decode": "frame", "queue": "frame", "encode": "frame",
            "transfer": "frame", "land": "transfer"}  # fmt: skip
    check_tree(frame, path)
    roles = {name: role for name, (role, _) in frame.items()}
    assert roles["backlog"] == "tandem-orchestrator"
    assert roles["encode"] == roles["transfer"] == "tandem-encoder"
    assert roles["land"] == "tandem-reasoner"
    assert attributes(frame["land"][1])["tandem.block"] == attributes(frame["encode"][1])["tandem.block"]
    starts = [
        frame[name][1].start_time_unix_nano for name in ("backlog", "decode", "encode", "transfer", "land")
    ]
    assert starts == sorted(starts)
    assert not [span.name for _, span in collector.spans if "error.type" in attributes(span)]
    everything = str([span for _, span in collector.spans])
    assert QUESTION not in everything
    assert answer.text not in everything


def check_tree(spans: dict[str, tuple[str, object]], parents: dict[str, str]) -> None:
    found = {name: span for name, (_, span) in spans.items()}
    assert set(found) == set(parents)
    for name, parent in parents.items():
        wanted = found[parent].span_id if parent else b""  # type: ignore[attr-defined]
        assert found[name].parent_span_id == wanted, name  # type: ignore[attr-defined]


def check_logs(tmp_path: Path, answer: client_pb2.Answer) -> None:
    secret = (tmp_path / "run/secret").read_bytes()
    files = [tmp_path / "up.log", *sorted((tmp_path / "run/logs").glob("*.log"))]
    assert {file.stem for file in files} >= {"up", "orchestrator", "encoder-0", "reasoner-0"}
    about = set()
    for file in files:
        raw = file.read_bytes()
        for hidden in (secret, secret.hex().encode(), QUESTION.encode(), answer.text.strip().encode()):
            assert not hidden or hidden not in raw, file
        for line in raw.decode().splitlines():
            record = json.loads(line)
            assert {"time", "level", "role", "logger", "message"} <= set(record), line
            if "stream" in record:
                about.add((record["role"], record["stream"], record.get("epoch", 0)))
    assert ("orchestrator", "cam", 1) in about
    assert ("encoder", "cam", 1) in about
