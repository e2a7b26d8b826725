"""First stage of training: the vision tower alone learns shape and colour from the mean of its tokens."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tandem.shapes.draw import random_pictures
from tandem.shapes.network import HIDDEN, patches, tower_forward
from tandem.shapes.words import COLOURS, SHAPES

Ints = NDArray[np.int64]


def random_things(rng: np.random.Generator, n: int, blank: float = 0.06) -> tuple[Ints, Ints]:
    """Random shapes and colours; a part of them is nothing (-1)."""
    shape, colour = rng.integers(0, len(SHAPES), n), rng.integers(0, len(COLOURS), n)
    nothing = rng.random(n) < blank
    return np.where(nothing, -1, shape), np.where(nothing, -1, colour)


def train_tower(visual: Any, seed: int, pictures: int, steps: int) -> float:
    """Train the tower on `pictures` drawn pictures for `steps` steps; returns held-out accuracy."""
    rng = np.random.default_rng(seed)
    shape, colour = random_things(rng, pictures)
    began = time.time()
    drawn = torch.from_numpy(random_pictures(rng, shape, colour))
    print(f"tower: drew {pictures} pictures in {time.time() - began:.0f} s", flush=True)
    want_shape, want_colour = torch.from_numpy(shape) + 1, torch.from_numpy(colour) + 1
    held = slice(0, 1000)
    readers = nn.ModuleList([nn.Linear(HIDDEN, len(SHAPES) + 1), nn.Linear(HIDDEN, len(COLOURS) + 1)])
    parameters = [*visual.parameters(), *readers.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    began = time.time()
    for step in range(steps):
        rate = 1.5e-3 * min(1.0, (step + 1) / 100) * min(1.0, 2.5 * (1 - step / steps) + 0.01)
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = torch.randint(1000, pictures, (192,), generator=generator)
        x = patches(drawn[rows])
        x = x + 0.05 * torch.randn(len(rows), 1, 1, generator=generator)
        mean = tower_forward(visual, x).mean(1)
        loss = nn.functional.cross_entropy(readers[0](mean), want_shape[rows])
        loss = loss + nn.functional.cross_entropy(readers[1](mean), want_colour[rows])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 200 == 199:
            accuracy = _accuracy(visual, readers, drawn[held], want_shape[held], want_colour[held])
            spent_s = time.time() - began
            print(
                f"tower: step {step + 1} {spent_s:.0f} s loss {loss.item():.3f} right {accuracy:.3f}",
                flush=True,
            )
    return _accuracy(visual, readers, drawn[held], want_shape[held], want_colour[held])


@torch.no_grad()
def _accuracy(visual: Any, readers: nn.ModuleList, drawn: Tensor, shape: Tensor, colour: Tensor) -> float:
    mean = tower_forward(visual, patches(drawn)).mean(1)
    right = (readers[0](mean).argmax(-1) == shape) & (readers[1](mean).argmax(-1) == colour)
    return float(right.float().mean())


@torch.no_grad()
def feature_bank(visual: Any, seed: int, per_thing: int) -> Tensor:
    """Visual tokens of drawn pictures [things + 1, per_thing, 4, hidden]; the last row is nothing.

    Row shape * colours + colour holds `per_thing` different pictures of that thing.
    """
    rng = np.random.default_rng(seed)
    things = len(SHAPES) * len(COLOURS) + 1
    index = np.arange(things).repeat(per_thing)
    shape = np.where(index == things - 1, -1, index // len(COLOURS))
    colour = np.where(index == things - 1, -1, index % len(COLOURS))
    parts = []
    for i in range(0, len(index), 2048):
        drawn = random_pictures(rng, shape[i : i + 2048], colour[i : i + 2048])
        parts.append(tower_forward(visual, patches(torch.from_numpy(drawn))))
    return torch.cat(parts).view(things, per_thing, -1, HIDDEN)
