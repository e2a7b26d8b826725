"""Classes of heads: who is cut, what is cut for them, and the files that say so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from reasoner_svc.thinking.head_scores import load_head_scores
from reasoner_svc.thinking.heads import full_heads, middles
from reasoner_svc.thinking.own_text import in_order
from tandem.core.errors import InvalidInput
from tandem.vlm.load import load_model
from tandem.vlm.view import Part

SCORES = ((0.9, 0.1, 0.5, 0.6), (0.2, 0.8, 0.3, 0.7))


def test_the_lowest_scores_are_cut_and_ties_are_settled() -> None:
    assert full_heads(SCORES, 0) == (((0, 4),), ((0, 4),))
    assert full_heads(SCORES, 0.5) == (((0, 1), (3, 4)), ((1, 2), (3, 4)))
    assert full_heads(SCORES, 1) == ((), ())
    assert full_heads(((0.5, 0.5), (0.5, 0.5)), 0.5) == ((), ((0, 2),))


@given(
    st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 12),
    st.integers(1, 12),
)
def test_middles_are_what_is_neither_first_nor_newest(
    lengths: list[int | None], sink: int, recent: int
) -> None:
    found = middles(lengths, sink, recent)
    before: int | None = 0
    for at, (tokens, (front, back)) in enumerate(zip(lengths, found, strict=True)):
        if tokens is None:
            before = None  # nothing behind it is counted from the front
            continue
        after = lengths[at + 1 :]
        newer = None if None in after else sum(each or 0 for each in after)
        for token in range(tokens):
            is_sink = before is not None and before + token < sink
            is_recent = newer is not None and newer + tokens - token <= recent
            assert (front <= token < back) == (not is_sink and not is_recent)
        before = None if before is None else before + tokens


def test_scores_are_read_from_three_kinds_of_files(tmp_path: Path) -> None:
    files = {
        "a.json": json.dumps({"scores": SCORES}),
        "b.json": json.dumps(SCORES),
        "c.tsv": "\n".join("\t".join(str(score) for score in row) for row in SCORES) + "\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    save_file({"scores": torch.tensor(SCORES)}, tmp_path / "d.safetensors")
    for name in (*files, "d.safetensors"):
        found = load_head_scores(str(tmp_path / name), 2, 4)
        assert torch.allclose(torch.tensor(found), torch.tensor(SCORES))


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("x.json", "{", "cannot be read"),
        ("x.json", '{"other": 1}', "cannot be read"),
        ("x.json", "[[1, 2], 3]", "cannot be read"),
        ("x.json", "[[0.5]]", "this model has"),
        ("x.json", "[[0, 1, 0, 1], [0, 1, 0, 2]]", "between 0 and 1"),
        ("x.json", "[[0, 1, 0, 1], [0, 1, 0, NaN]]", "between 0 and 1"),
        ("x.tsv", "0 1 0 1\n0 1 red 1", "cannot be read"),
        ("x.safetensors", "no tensors", "cannot be read"),
    ],
)
def test_bad_scores_are_refused(tmp_path: Path, name: str, text: str, word: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InvalidInput, match=word):
        load_head_scores(str(tmp_path / name), 2, 4)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_head_scores(str(tmp_path / "missing.json"), 2, 4)


def test_parts_are_put_into_the_order_of_the_view() -> None:
    model = load_model("dummy:tiny")
    sink, notes, run = (Part(segment=model.new_segment()) for _ in range(3))
    recalled = Part(segment=model.new_layered_segment())
    assert in_order((sink, recalled, notes, run)) == (sink, recalled, run, notes)
    assert in_order((sink, run)) == (sink, run)
