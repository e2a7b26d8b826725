"""The same promises on a CUDA device; `scripts/gpu-check` runs these."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.backends.cuda import CudaFlash
from tandem.vlm.backends.plain import plain
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_answer, stock_inputs, stock_model
from tests.parity.split_pipeline import (
    RELATIVE_TOLERANCE,
    ask,
    encode,
    random_frames,
    real_heads_checkpoint,
    relative_error,
    unit_times,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: torch sees no CUDA device"),
]

QUESTION = "What happened, and when?"


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped", "real heads"])
@pytest.mark.parametrize("window", [None, 7])
def test_tokens_of_generate(source, window, tmp_path):
    source = real_heads_checkpoint(tmp_path) if source == "real heads" else source
    model = load_model(source, load_format="dummy", device="cuda", dtype="float32")
    stock = stock_model(source, load_format="dummy", device="cuda", dtype="float32")
    frames = random_frames(model, 7)
    inputs = stock_inputs(model, frames, unit_times(model, 7), QUESTION)
    tokens, logits = stock_answer(stock, inputs, max_new_tokens=8)
    ours, our_logits = ask(model, encode(model, frames, chunk=3, window=window), QUESTION, 8)
    assert ours == tokens
    assert relative_error(our_logits, logits) < RELATIVE_TOLERANCE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("window", [None, 2])
def test_the_device_agrees_with_the_processor(dtype, window):
    processor = load_model("dummy:tiny", dtype="float32")
    device = load_model("dummy:tiny", device="cuda", dtype=dtype)
    with torch.no_grad():
        for ours, theirs in zip(device.hf.parameters(), processor.hf.parameters(), strict=True):
            ours.copy_(theirs)
    frames = random_frames(processor, 5)
    _, theirs = ask(processor, encode(processor, frames, chunk=2, window=window), QUESTION, 1)
    _, ours = ask(device, encode(device, frames, chunk=2, window=window), QUESTION, 1)
    assert relative_error(ours.cpu(), theirs) < (1e-4 if dtype == "float32" else 0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [16, 20, 64, 128])
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (7, 1), (7, 4097), (300, 33)])
def test_kernels_agree_with_plain_torch(dtype, head_dim, rows, keys):
    generator = torch.Generator("cuda").manual_seed(rows + keys)

    def draw(tokens):
        return torch.randn(2, tokens, head_dim, device="cuda", generator=generator).to(dtype)

    # As a segment's columns: strided, and not at the start of the buffer.
    key, value = (draw(keys + 9)[:, 5 : 5 + keys] for _ in range(2))
    query, scale = draw(rows), head_dim**-0.5
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-2}
    ours = CudaFlash().rectangle(query, key, value, scale)
    theirs = plain(query, key, value, scale, causal=False)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), **tolerance)
    squares = [draw(rows).expand(3, 2, rows, head_dim) for _ in range(3)]
    for mine, other in zip(
        CudaFlash().squares(*squares, scale), plain(*squares, scale, causal=True), strict=True
    ):
        torch.testing.assert_close(mine.float(), other.float(), **tolerance)
