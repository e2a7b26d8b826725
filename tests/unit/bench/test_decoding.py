"""The benchmarks of decoding compare like with like, as a tiny model shows."""

from __future__ import annotations

import pytest
import torch

from bench import decode, workers
from bench._decoding import Peer, random_kept, row, segment_of, weight_bytes
from reasoner_svc.workers.layouts import Layout
from tandem.vlm.load import load_model
from tandem.vlm.unsplit import stock_model
from tests.parity.split_pipeline import relative_error


@pytest.fixture(scope="module")
def pair():
    return load_model("dummy:tiny"), stock_model("dummy:tiny").eval()


@pytest.mark.parametrize("room", [0, 8])
@torch.inference_mode()
def test_peer_and_question_decode_the_same_tokens_again_and_again(pair, room):
    model, stock = pair
    question = decode.Question(model, 100)
    peer = Peer(stock, model, [question.kept], static_room=room)
    for tokens in (6, 3, 6):
        _, ours = question.decode(decode.FIRST, tokens)
        _, theirs = peer.decode([decode.FIRST], tokens)
        assert ours == [token for (token,) in theirs]
        assert len(ours) == tokens


@torch.inference_mode()
def test_decode_reports_every_metric(pair):
    rows = decode.measure(*pair, 80, turns=2, tokens=2)
    assert [each["metric"] for each in rows] == ["tokens_per_second_80", "vs_static_cache_80", "of_floor_80"]
    assert all(each["ratio"] > 0 for each in rows[:2])
    assert all(each["n"] == 2 for each in rows)


@torch.inference_mode()
def test_one_worker_and_one_row_decode_the_same_tokens(pair):
    model, stock = pair
    kept = random_kept(model, 50, seed=1)
    for layout in Layout:
        case = workers.Case(model, stock, kept, workers.stream_of(model, kept), 1, layout)
        assert case.team.decode(5)[1] == case.peer.decode([workers.FIRST], 5)[1]


@torch.inference_mode()
def test_a_worker_stands_behind_the_prefix_and_all_others_newest_tokens_included(pair):
    model, _ = pair
    tails = [random_kept(model, 3 + worker, seed=worker) for worker in range(3)]
    kept, prompt = random_kept(model, 42, seed=9), random_kept(model, 8, seed=8)
    team = workers.Team(model, segment_of(model, kept), prompt, tails)
    lengths = [3, 4, 5]
    for me, step in enumerate(team.steps([70, 71, 72])):
        first, second = (length + 1 for other, length in enumerate(lengths) if other != me)
        bases = [part.base[0] for part in (*step.view.parts, step.view.tail)]
        assert bases == [0, 0, 50, 50 + first, 50 + first + second]
        assert step.positions.tolist() == [[bases[-1] + lengths[me]]] * 3


@torch.inference_mode()
def test_workers_agree_with_the_reference_backend(pair):
    kept = random_kept(pair[0], 40, seed=1)
    hidden = []
    for model in (pair[0], load_model("dummy:tiny", backend="reference")):
        tails = [random_kept(model, 5, seed=worker) for worker in range(4)]
        team = workers.Team(model, segment_of(model, kept), random_kept(model, 3, seed=2), tails)
        hidden.append(torch.cat([each.hidden for each in model.forward_many(team.steps([65, 66, 67, 68]))]))
    assert relative_error(*hidden) < 1e-5


@torch.inference_mode()
def test_workers_report_one_copy_of_the_prefix(pair):
    rows = {each["metric"]: each for each in workers.measure(*pair, 60, (1, 4), turns=1, steps=1)}
    # Segments have a little room more than tokens.
    assert rows["prefix_bytes_w4_60"]["ratio"] == pytest.approx(4, rel=0.15)
    assert rows["prefix_bytes_w4_60"]["value"] == rows["prefix_bytes_w1_60"]["value"]
    assert rows["tokens_per_second_w1_60"]["ratio"] == 1
    assert rows["vs_hf_batch_w4_60"]["ratio"] > 0


def test_a_row_has_the_spread_of_its_quartiles():
    assert row("m", [1.0, 2.0, 3.0, 4.0], "s")["spread"] == 1.0
    assert row("m", [1.0], "s")["spread"] == 0


def test_the_weights_read_are_those_of_the_text_layers_and_the_head(pair):
    stock = pair[1]
    text = sum(p.nbytes for p in stock.model.language_model.parameters())
    table = stock.get_input_embeddings().weight.nbytes
    assert weight_bytes(stock) == text - table + stock.lm_head.weight.nbytes
