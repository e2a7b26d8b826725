"""Packed linear layers compute what torch's do, and take only what they may."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from tandem.vlm import packed
from tandem.vlm.load import load_model
from tandem.vlm.packed import MIN_ELEMENTS, ROWS, PackedLinear, is_supported, pack_linears

pytestmark = pytest.mark.skipif(not is_supported(), reason="no oneDNN here")


def large(out=512, inner=MIN_ELEMENTS // 512, bias=True):
    return nn.Linear(inner, out, bias=bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_any_number_of_rows_gives_the_same_as_torch(dtype, bias):
    linear = large(bias=bias).to(dtype)
    ours = PackedLinear(linear)
    for rows in (*range(1, 2 * ROWS + 1), 37):
        x = torch.randn(rows, linear.in_features).to(dtype)
        torch.testing.assert_close(ours(x), linear(x))


@torch.no_grad()
def test_shapes_are_those_of_torch():
    linear = large()
    ours = PackedLinear(linear)
    for shape in ((), (1,), (1, 1), (1, 3), (2, 5), (0,), (1, 0)):
        x = torch.randn(*shape, linear.in_features)
        assert ours(x).shape == linear(x).shape


@torch.no_grad()
def test_strided_rows_are_taken():
    linear = large()
    x = torch.randn(2 * ROWS, 2 * linear.in_features)[::2, ::2]
    torch.testing.assert_close(PackedLinear(linear)(x), linear(x))


def test_only_large_plain_layers_with_weights_of_their_own_are_taken():
    class Special(nn.Linear):
        pass

    tied, table = large(), nn.Embedding(512, MIN_ELEMENTS // 512)
    tied.weight = table.weight
    layers = {
        "large": large(),
        "small": nn.Linear(16, 16),
        "special": Special(MIN_ELEMENTS // 512, 512),
        "float16": large().half(),
        "table": table,
        "tied": tied,
    }
    module = nn.ModuleDict(layers)
    assert pack_linears(module) == 1
    kept = {name: layer for name, layer in layers.items() if name != "large"}
    assert isinstance(module["large"], PackedLinear)
    assert all(module[name] is layer for name, layer in kept.items())


def test_nothing_is_taken_where_it_is_not_supported(monkeypatch):
    monkeypatch.setattr(packed.platform, "machine", lambda: "riscv64")
    assert pack_linears(nn.ModuleList([large()])) == 0


def test_the_weights_are_held_once():
    model = load_model("dummy:small")
    text = [module for module in model.hf.model.language_model.modules() if isinstance(module, PackedLinear)]
    assert len(text) == 12 * 5  # queries, output and the three of the perceptron; keys and values are small
    assert sum(parameter.numel() for parameter in model.hf.model.language_model.parameters()) < 3_000_000


def test_each_plain_weight_is_freed_before_the_next_is_packed(monkeypatch):
    """Else loading would hold every weight twice for a moment."""
    module = nn.Sequential(large(), large(), nn.Sequential(large()))
    plain = [weakref.ref(child) for child in module.modules() if type(child) is nn.Linear]
    alive = []

    class Noting(PackedLinear):
        def __init__(self, linear):
            alive.append(sum(each() is not None for each in plain))
            super().__init__(linear)

    monkeypatch.setattr(packed, "PackedLinear", Noting)
    assert pack_linears(module) == 3
    assert sorted(alive) == [1, 2, 3]
