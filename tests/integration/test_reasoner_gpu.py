"""The same answers with the model and the runs on a GPU."""

from __future__ import annotations

import pytest
import torch

from tandem.vlm.load import load_model
from tests.unit.reasoner_svc.making import encode_clip, make_frames
from tests.unit.reasoner_svc.serving import serve

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: there is no CUDA device"),
]


@pytest.mark.parametrize("source", ["dummy:tiny", "dummy:tiny-timestamped"])
async def test_a_gpu_answers_as_a_cpu_does(source: str) -> None:
    answers = []
    for device in ("cpu", "cuda"):
        model = load_model(source, device=device, dtype="float32")
        blocks = encode_clip(model, make_frames(model, 6))
        async with serve(model, device=device, view_tokens=4 * blocks[1].header.tokens) as s:
            await s.open()
            s.publish(*blocks)
            said = await s.ask(max_tokens=16)
            answers.append((said.tokens, said.final.evidence.blocks))
            await s.idle()
    assert answers[0] == answers[1]
