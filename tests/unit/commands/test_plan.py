"""`tandem plan` says what the real parts take: each formula against the thing that it is about."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from bench import isolation
from bench.isolation import LIMITS
from encoder_svc.app import DEFAULT_WINDOW_UNITS
from encoder_svc.config import EncoderConfig
from encoder_svc.decode.children import DecoderHost
from encoder_svc.decode.isolated import IsolatedDecoders
from encoder_svc.encode import Run, encode_sink, prefill_runs, see_runs
from encoder_svc.sample import Unit
from encoder_svc.window import Window
from kv_transfer.header import encode_header
from orchestrator import sizing, sizing_needs
from orchestrator.arguments import add_arguments, to_config
from orchestrator.sizing import size
from orchestrator.sizing_advice import helm_values, ram_bytes, up_options
from orchestrator.sizing_wish import Wish
from reasoner_svc.app import DEFAULT_VIEW_TOKENS
from reasoner_svc.assembling import DEFAULT_RECALLED_BLOCKS
from reasoner_svc.config import ReasonerConfig
from reasoner_svc.retrieve.index import MemoryIndex, representatives
from reasoner_svc.store.disk.format import encode_record
from reasoner_svc.view.run import StreamRun
from tandem import cli
from tandem.commands.plan_model import read_shape
from tandem.core.block_sizes import (
    catalogue_row_bytes,
    header_bytes,
    index_bytes,
    index_row_bytes,
    record_bytes,
    segment_tokens,
    with_embedding,
)
from tandem.core.blocks import BlockHeader, BlockKey, BlockKind, Codec, KVLayout
from tandem.core.errors import Incompatible, InvalidInput, NotFound
from tandem.core.ids import StreamId
from tandem.core.model_shape import ModelShape, own_dtype, shape_of
from tandem.core.timeline import TimeRange
from tandem.vlm import dummy
from tandem.vlm.load import load_model
from tandem.vlm.model import VisionLanguageModel
from tests.unit.encoder_svc.media import picture
from tests.unit.reasoner_svc.making import LAYOUT, make_block
from tests.unit.reasoner_svc.store_disk.disk_making import CAM, make_store

ROOT = Path(__file__).resolve().parents[3]
SIZES = [(720, 1280), (56, 56), (1080, 1920), (90, 3000), (2160, 3840)]


def shape_of_model(source: str, dtype: str = "") -> ModelShape:
    return read_shape(source, dtype=dtype, device="cpu", max_pixels=0, text_tokens=None)


@pytest.fixture(scope="module")
def default() -> VisionLanguageModel:
    return load_model("default")


def test_the_default_model_is_as_it_is_planned(default: VisionLanguageModel) -> None:
    shape, prompt = shape_of_model("default"), default.prompt
    assert shape.layout == default.layout
    assert shape.geometry(720, 1280) == prompt.geometry((1, 2, 2))
    assert shape.sink_tokens == len(prompt.sink_tokens())
    assert shape.unit_text == tuple(map(len, prompt.unit_tokens(0)))
    known = (prompt.window_units, prompt.recent_tokens, prompt.recalled_blocks, prompt.max_question_tokens)
    assert (
        shape.window_units,
        shape.recent_tokens,
        shape.recalled_blocks,
        shape.max_question_tokens,
    ) == known
    assert shape.frames_per_unit / shape.fps == prompt.seconds_per_unit


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped"])
def test_dummy_models_are_as_they_are_planned(source: str) -> None:
    model, shape = load_model(source), shape_of_model(source)
    assert shape.unit_text == tuple(map(len, model.prompt.unit_tokens(0)))
    assert shape.layout == model.layout
    for height, width in SIZES:
        h, w = model.pictures.size(height, width)
        grid = (1, h // shape.factor, w // shape.factor)
        assert shape.geometry(height, width) == model.prompt.geometry(grid)


@pytest.mark.parametrize("source", ["default", "dummy:tiny", "dummy:small", "dummy:qwen2.5-vl-3b"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_are_counted(source: str, tied: bool) -> None:
    if source == "default":
        folder = ROOT / "tandem/shapes/model"
        config, fields = AutoConfig.from_pretrained(folder), json.loads((folder / "config.json").read_text())
    else:
        config, fields = Qwen2_5_VLConfig(**dummy.description(source)), dict(dummy.description(source))
    config.tie_word_embeddings = fields["tie_word_embeddings"] = tied
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.tie_weights()
    shape = shape_of(fields, {}, {}, dtype="bfloat16", unit_text=(0, 0), sink_tokens=15)
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    assert shape.weights_bytes == 2 * shape.parameters


def test_an_older_configuration_is_read_too() -> None:
    """As the hub has Qwen2.5-VL: the text's fields at the top, other names, no default left out."""
    nested = dict(dummy.description("dummy:qwen2.5-vl-7b"))
    vision = {**nested["vision_config"], "spatial_patch_size": 14, "in_chans": 3}
    flat = {**nested["text_config"], "vision_config": vision, "torch_dtype": "float16"}
    made = [
        shape_of(fields, {}, {}, dtype=own_dtype(fields), unit_text=(0, 0), sink_tokens=15)
        for fields in (flat, nested)
    ]
    assert [each.layout.dtype for each in made] == ["float16", "bfloat16"]
    assert made[0].parameters == made[1].parameters == 8_292_166_656


def header(shape: ModelShape, number: int, time_us: int, codec: Codec, embedding: int) -> BlockHeader:
    made, name = with_embedding(embedding)
    return BlockHeader(
        key=BlockKey(StreamId("front-door"), number),
        kind=BlockKind.VISUAL,
        geometry=shape.geometry(720, 1280),
        layout=shape.layout,
        fingerprint="0" * 32,
        time=TimeRange(time_us, time_us + 1_000_000),
        layer_checksums=(1 << 63,) * shape.layout.layers,
        # Of length 1, or it is refused: as float16, one is 0x3c00.
        embedding=made and b"\x00\x3c" + made[2:],
        embedder=name,
        codec=codec,
    )


@pytest.mark.parametrize("source", ["default", "dummy:tiny"])
@pytest.mark.parametrize(("number", "time_us"), [(1, 0), (200, 200_000_000), (90_000, 86_400_000_000)])
@pytest.mark.parametrize("codec", [Codec.RAW, Codec.INT8])
@pytest.mark.parametrize("embedding", [0, 32, 768])
def test_headers_and_records_have_their_bytes(
    source: str, number: int, time_us: int, codec: Codec, embedding: int
) -> None:
    shape = shape_of_model(source)
    made = header(shape, number, time_us, codec, embedding)
    assert header_bytes(made) == len(encode_header(made))
    reps = bytes(4 * shape.layout.layers * shape.layout.kv_heads * shape.layout.head_dim)
    assert record_bytes(made) == encode_record(made, reps, 0)[0].length


@pytest.mark.parametrize("layout", [LAYOUT, shape_of_model("default").layout], ids=["small", "default"])
def test_the_disk_takes_about_its_bytes(tmp_path: Path, layout: KVLayout) -> None:
    blocks, width = 400, layout.kv_heads * layout.head_dim
    store = make_store(tmp_path, layout=layout, file_bytes=64 << 20)
    store.open(CAM)
    made = [make_block(number, layout=layout) for number in range(1, blocks + 1)]
    store.append(CAM, [(block, torch.zeros(layout.layers, width)) for block in made])
    store.sync(CAM)
    store.close(CAM)
    size_bytes = (tmp_path / f"s-{CAM}" / "catalogue.sqlite").stat().st_size
    assert size_bytes == pytest.approx(blocks * catalogue_row_bytes(layout), rel=0.15)
    records = sum(record_bytes(block.header) for block in made)
    assert store_bytes(tmp_path) == pytest.approx(records, abs=2 * 512)


def store_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.tkv"))


@pytest.mark.parametrize("blocks", [1, 64, 65, 1000])
@pytest.mark.parametrize("embedding", [0, 32])
def test_the_index_has_its_bytes(blocks: int, embedding: int) -> None:
    layout = shape_of_model("default").layout
    index = MemoryIndex(
        layers=layout.layers, key_dim=layout.kv_heads * layout.head_dim, embedding_dim=embedding
    )
    row = torch.zeros(layout.layers, layout.kv_heads * layout.head_dim)
    for number in range(blocks):
        index.append(number, TimeRange(0, 1), 9, row)
    assert index_bytes(index_row_bytes(layout, embedding), blocks) == index.nbytes


def test_large_indexes_grow_by_bounded_chunks() -> None:
    layout = shape_of_model("dummy:qwen2.5-vl-7b").layout
    index = MemoryIndex(layers=layout.layers, key_dim=layout.kv_heads * layout.head_dim)
    row = torch.zeros(layout.layers, layout.kv_heads * layout.head_dim)
    for number in range(800):
        index.append(number, TimeRange(0, 1), 9, row)
    assert index_bytes(index_row_bytes(layout), 800) == index.nbytes


def test_window_run_and_block_have_their_bytes(default: VisionLanguageModel) -> None:
    """A minute of the embedded model's stream, in the encoder's window and in the reasoner's view."""
    plan = size(shape_of_model("default"), Wish(streams=1, fps=1.0, height=56, width=56, view_tokens=288))
    window = Window(default, plan.window_units)
    run = StreamRun(default, StreamId("s"), plan.view_tokens)
    run.append(encode_sink(default, StreamId("s"), window))
    for at in range(0, 64, sizing_needs.RUN_UNITS):
        times = range(at, at + sizing_needs.RUN_UNITS)
        units = tuple(Unit(TimeRange(t * 10**6, (t + 1) * 10**6), (picture(t, 56, 56),)) for t in times)
        runs = [Run(StreamId("s"), window, units)]
        made = prefill_runs(default, runs, see_runs(default, runs))[0]
        assert isinstance(made, list)
        for block in made:
            run.append(block)
    assert window.nbytes == plan.value("encoder_window_bytes")
    assert run.nbytes == plan.value("reasoner_run_bytes")
    assert block.header.payload_bytes == plan.value("block_bytes") == 34_560
    assert block.header.tokens == plan.value("unit_tokens")
    whole = header(shape_of_model("default"), 3600, 3_600_000_000, Codec.RAW, 32)
    assert abs(len(encode_header(whole)) - plan.value("header_bytes")) < 8
    assert representatives(block).nbytes == 4 * 5 * 3 * 32


def test_defaults_are_those_of_the_services() -> None:
    assert sizing_needs.DEFAULT_WINDOW_UNITS == DEFAULT_WINDOW_UNITS
    assert sizing_needs.DEFAULT_VIEW_TOKENS == DEFAULT_VIEW_TOKENS
    assert sizing_needs.DEFAULT_RECALLED_BLOCKS == DEFAULT_RECALLED_BLOCKS
    encoder, reasoner = EncoderConfig(), ReasonerConfig(name="r", secret=bytes(16))
    assert (encoder.run_units, encoder.max_streams) == (sizing_needs.RUN_UNITS, sizing.ENCODER_STREAMS)
    assert (
        encoder.outbox_blocks,
        encoder.outbox_bytes,
    ) == (sizing_needs.OUTBOX_BLOCKS, sizing_needs.OUTBOX_BYTES)
    assert (reasoner.max_running, reasoner.max_streams) == (sizing.MAX_RUNNING, sizing.REASONER_STREAMS)
    assert reasoner.max_prompt_tokens == sizing_needs.MAX_QUESTION_TOKENS
    assert reasoner.default_answer_tokens == sizing_needs.ANSWER_TOKENS


def test_buffers_never_hold_less_than_their_tokens() -> None:
    assert [segment_tokens(*each) for each in ((0, 5), (100, 80), (576, 72), (8, 400))] == [
        256,
        256,
        1152,
        408,
    ]


def big(**wish: float) -> Wish:
    return Wish(**{"streams": 16, "fps": 2.0, "device_bytes": 80 << 30, **wish})  # type: ignore[arg-type]


def test_services_are_counted_by_what_runs_out_first() -> None:
    shape = shape_of_model("dummy:qwen2.5-vl-7b", "bfloat16")
    by_memory = size(shape, big())
    assert (by_memory.encoders, by_memory.reasoners, by_memory.gpus) == (2, 2, 4)
    # A stream is a unit a second: nine of 100 ms fit into nine tenths of an encoder's time.
    by_time = size(shape, big(unit_ms=100.0))
    assert by_time.encoders == 2
    assert size(shape, big(unit_ms=200.0)).encoders == 4
    assert size(shape, big(unit_ms=2000.0)).encoders == 16, "a stream is never shared by two"
    assert by_time.value("encoder_units_per_second") == pytest.approx(9.0)
    assert size(shape, big(window_units=8)).encoders == 1
    many = size(
        shape_of_model("default"), Wish(streams=2, fps=1.0, questions_per_minute=600.0, answer_s=10.0)
    )
    assert many.reasoners == 4, "100 questions at once, 32 of a reasoner"
    assert size(shape_of_model("default"), Wish(streams=1100, fps=1.0)).reasoners == 2
    with pytest.raises(InvalidInput, match="not one stream fits: encoders have"):
        size(shape, big(device_bytes=16 << 30))


def test_admission_lets_in_what_was_planned_and_no_stream_more() -> None:
    shape = shape_of_model("dummy:qwen2.5-vl-7b", "bfloat16")
    plan = size(shape, big(streams=40))
    budget, window = ram_bytes(plan), plan.value("window_bytes")
    assert window * plan.streams_a_reasoner <= 0.8 * budget < window * (plan.streams_a_reasoner + 1)
    assert plan.value("bytes_per_second") == 40 * plan.value("block_bytes")


def test_the_options_are_those_of_up(tmp_path: Path) -> None:
    shape = shape_of_model("default")
    plan = size(shape, Wish(streams=300, fps=1.0, hours=2.5))
    parser = argparse.ArgumentParser()
    add_arguments(parser, encoders=1, reasoners=1)
    options = [each.replace("=DIR", f"={tmp_path}") for each in up_options(plan, "default", "", "float32")]
    config = to_config(parser.parse_args(options))
    assert config.services.memory.ram_bytes == ram_bytes(plan)
    assert config.services.memory.keep_hours == 2.5
    assert config.services.memory.disk_bytes >= plan.value("disk_bytes")
    assert (config.encoders, config.max_streams) == (2, 300)


@pytest.mark.parametrize("device_bytes", [0, 80 << 30])
def test_the_values_are_those_of_the_chart(device_bytes: int) -> None:
    rendering = pytest.importorskip("tests.chart.rendering", reason="needs the extra `chart`")
    plan = size(shape_of_model("default"), Wish(streams=20, fps=1.0, device_bytes=device_bytes))
    values = helm_values(plan, "default", "", "float32", 3136)
    rendered = rendering.render_texts({**values, "insecure": True})
    text = "\n".join(rendered.values())
    assert f"--ram-bytes={ram_bytes(plan)}" in text
    assert f"--view-tokens={plan.view_tokens}" in text
    assert text.count("--max-pixels=3136") == 2
    assert ("nvidia.com/gpu: 1" in text) == bool(device_bytes)
    for role in ("encoder", "reasoner"):
        resources = values[role]["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"], "a node keeps its promises"


@pytest.mark.parametrize("height", [240, 720])
def test_a_process_that_decodes_takes_about_what_is_planned_for_it(height: int) -> None:
    """Of all streams it is what an encoder has most of, where pictures are large."""
    host = DecoderHost(LIMITS, memory_bytes=1 << 30, cpu_s=10)
    try:
        width = isolation.SIZES[height]
        decoders = IsolatedDecoders(host)
        isolation._video([isolation._picture(index, width, height) for index in range(12)])(decoders)
        private, _ = isolation._memory_mib(isolation._pid(decoders))
    finally:
        host.close()
    plan = size(shape_of_model("default"), Wish(streams=3, fps=1.0, height=height, width=width))
    assert 0.6 <= private * 2**20 / (plan.value("decoder_bytes") / 3) <= 1.2
    large = size(shape_of_model("default"), Wish(streams=300, fps=1.0, height=2160, width=3840))
    limit = helm_values(large, "default", "", "float32")["encoder"]["resources"]["limits"]["memory"]
    assert int(limit.removesuffix("Gi")) << 30 > large.value("decoder_bytes") * large.streams_an_encoder / 300


def test_the_commit_of_a_hub_is_in_all_that_it_advises() -> None:
    """The chart refuses a hub's model without one."""
    rendering = pytest.importorskip("tests.chart.rendering", reason="needs the extra `chart`")
    plan = size(shape_of_model("default"), Wish(streams=20, fps=1.0))
    commit = "c" * 40
    assert f"--revision={commit}" in up_options(plan, "acme/tiny", commit, "float32")
    values = helm_values(plan, "acme/tiny", commit, "float32")
    values["model"] |= {"cache": {"mode": "emptyDir"}}
    open_hub = {"networkPolicy": {"extraEgress": [{"ports": [{"port": 443}]}]}, "insecure": True}
    text = "\n".join(rendering.render_texts({**values, **open_hub}).values())
    assert text.count(f"--revision={commit}") == 2


def test_it_is_told_to_people_and_machines(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["plan", "--streams", "4", "--fps", "1", "--size", "56x56"]
    assert cli.main([*line, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["numbers"]["block_bytes"]["value"] == 34_560
    assert all(each["formula"] for each in told["numbers"].values())
    assert cli.main([*line, "--explain"]) == 0
    out = capsys.readouterr().out
    assert "= 2 · 2 of the picture + 5 of text" in out
    assert "34.56 kB" in out
    values = out.partition("values of the chart:\n")[2].partition("\n\n")[0]
    assert yaml.safe_load(values) == told["helm"]
    assert not any("--max-pixels" in note for note in told["notes"])
    assert cli.main([*line, "--max-pixels", "3136"]) == 0
    assert "has no --max-pixels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "error", "words"),
    [
        ({}, NotFound, "holds no config.json"),
        ({"config.json": "{"}, Incompatible, "is not JSON"),
        ({"config.json": "{}"}, Incompatible, "no vision_config"),
        ({"config.json": '{"vision_config": {}}'}, Incompatible, "num_attention_heads is None"),
    ],
)
def test_what_is_no_model_is_refused(
    tmp_path: Path, files: dict[str, str], error: type[Exception], words: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(error, match=words):
        shape_of_model(str(tmp_path))


def test_it_needs_no_torch() -> None:
    script = (
        "import sys\n"
        "missing = ('torch', 'transformers', 'numpy', 'xxhash', 'tokenizers', 'msgpack')\n"
        "sys.modules.update(dict.fromkeys(missing))\n"
        "from tandem import cli\n"
        "raise SystemExit(cli.main(['plan', '--streams', '2', '--fps', '1']))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "34.56 kB" in ran.stdout, ran.stderr
