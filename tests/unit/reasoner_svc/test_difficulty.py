# ruff: noqa: N803 (shape suffixes)
"""The difficulty probe: labels, fit, file; and what its plans do to a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from reasoner_svc.thinking.asking import thinking_wish
from reasoner_svc.thinking.difficulty import PLANS, Difficulty, label_of
from reasoner_svc.thinking.fitting import main
from reasoner_svc.thinking.probe import Probe, fit_probe, load_probe, save_probe
from reasoner_svc.thinking.tools import ThinkingTools
from tandem.core.errors import BadQuestion, InvalidInput
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_inputs, stock_model
from tandem.wire.gen.tandem.v1 import types_pb2
from tests.unit.reasoner_svc.engines import answer, ask, running
from tests.unit.reasoner_svc.making import encode_clip, make_frames, unit_times_us

EASY, NORMAL, HARD = Difficulty


def test_labels_are_the_papers() -> None:
    limits = {"right": 0.8, "sure": 0.3, "wrong": 0.2}
    assert label_of(0.9, 0.2, **limits) is NORMAL
    assert label_of(0.9, 0.4, **limits) is EASY
    assert label_of(0.5, 0.2, **limits) is EASY
    assert label_of(0.1, 0.2, **limits) is HARD


def test_a_fit_tells_held_out_states_apart_and_survives_its_file(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.randn(3, 16, generator=draw)
    kinds = torch.arange(150) % 3
    states = centres[kinds] + 0.3 * torch.randn(150, 16, generator=draw)
    labels = [list(Difficulty)[kind] for kind in kinds]
    probe = fit_probe(states[:90], labels[:90], width=16, epochs=15, rate=0.02)
    save_probe(probe, tmp_path / "probe.safetensors", "f" * 32)
    read = load_probe(str(tmp_path / "probe.safetensors"), 16, "f" * 32)
    judged = [read.judge(state) for state in states[90:]]
    assert judged == [probe.judge(state) for state in states[90:]]
    right = [found is label for (found, _), label in zip(judged, labels[90:], strict=True)]
    assert sum(right) >= 57


def test_bad_probes_and_states_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "probe.safetensors"
    good = fit_probe(torch.randn(3, 8), [EASY, NORMAL, HARD], width=4, epochs=1)
    save_probe(good, path, "f" * 32)
    for size, model, word in ((9, "f" * 32, "expected"), (8, "0" * 32, "fitted to model")):
        with pytest.raises(InvalidInput, match=word):
            load_probe(str(path), size, model)
    broken = {"hidden.weight": torch.full((4, 8), torch.nan), "hidden.bias": torch.zeros(4)}
    broken |= {"out.weight": torch.zeros(3, 4), "out.bias": torch.zeros(3)}
    save_file(broken, path, {"model": "f" * 32})
    with pytest.raises(InvalidInput, match="not finite"):
        load_probe(str(path), 8, "f" * 32)
    path.write_bytes(b"\x80\x04no tensors")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_probe(str(path), 8, "f" * 32)
    with pytest.raises(InvalidInput, match="labels for states"):
        fit_probe(torch.randn(3, 8), [EASY])


def certain(difficulty: Difficulty, size: int) -> Probe:
    """A probe that says the same of everything."""
    bias = torch.zeros(3)
    bias[list(Difficulty).index(difficulty)] = 9
    return Probe(
        hidden_PE=torch.zeros(1, size),
        hidden_bias_P=torch.zeros(1),
        out_3P=torch.zeros(3, 1),
        out_bias_3=bias,
    )


async def test_a_plan_sets_budget_and_first_words_and_the_probe_sees_the_stock_models_state() -> None:
    model = load_model("dummy:tiny")
    frames = make_frames(model, 3)
    blocks = encode_clip(model, frames)
    bare = model.prompt.question_tokens("what?")
    end = model.prompt.question_span(bare)[1]
    states: list[torch.Tensor] = []

    class Seeing(Probe):
        def judge(self, state_E: torch.Tensor) -> tuple[Difficulty, float]:
            states.append(state_E)
            return super().judge(state_E)

    async with running(model, blocks) as (engine, _):
        for difficulty in Difficulty:
            plain = certain(difficulty, model.embed([0]).shape[1])
            probe = Seeing(**{name: getattr(plain, name) for name in Probe.__dataclass_fields__})
            message: Any = types_pb2.Thinking(open="", max_tokens=50, adaptive=True)
            tools = ThinkingTools(probe=probe)
            wish, _ = thinking_wish(message, model.prompt, 100, "what?", end, tools)
            record = await answer(ask(engine, model, prompt_ids=tuple(bare), max_tokens=3, thinking=wish)[1])
            thinking, plan = record.thinking, PLANS[difficulty]
            assert thinking is not None
            assert thinking.plan == f"{difficulty.value} (1.00)"
            assert thinking.tokens == round(50 * plan.share) + len(wish.closing_ids)
            words = model.prompt.encode_text(plan.words)[: round(50 * plan.share)] if plan.words else []
            assert list(record.token_ids[: len(words)]) == words
    stock = stock_model("dummy:tiny")
    inputs = stock_inputs(model, frames, unit_times_us(model, 3), "what?")
    with torch.no_grad():
        hidden = stock(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    for state in states:
        assert float((state - hidden).abs().max()) < 1e-4 * float(hidden.abs().max())
    with pytest.raises(BadQuestion, match="--difficulty-probe"):
        thinking_wish(types_pb2.Thinking(adaptive=True), model.prompt, 100, "what?", end)


def test_the_command_fits_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded, out = str(tmp_path / "recorded.safetensors"), tmp_path / "probe.safetensors"
    kinds = torch.arange(60) % 3
    states = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))[kinds] * 3
    tensors = {"states": states, "accuracy": torch.tensor([0.5, 0.9, 0.1])[kinds], "entropy": torch.zeros(60)}
    save_file(tensors, recorded, {"model": "f" * 32})
    assert main([recorded, str(out), "--epochs=10", "--rate=0.02", "--width=8"]) == 0
    assert "12 of 12" in capsys.readouterr().out
    assert load_probe(str(out), 8, "f" * 32).judge(states[2])[0] is HARD
    save_file({"states": states}, recorded)
    assert main([recorded, str(out)]) == 1
    assert "lacks accuracy, entropy" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), str(out)]) == 1
