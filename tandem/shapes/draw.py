"""Draw coloured shapes on a tinted background: the pictures the default model learns from."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tandem.shapes.words import COLOURS, SHAPES

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
PALETTE: Floats = np.array(list(COLOURS.values()), dtype=np.float32)


def _triangle(u: Floats, v: Floats) -> Bools:
    inside: Bools = (v < 0.7) & (1.7 * np.abs(u) < 0.95 * (v + 1.0))
    return inside


def _star(u: Floats, v: Floats) -> Bools:
    sector = np.pi / 5
    angle = np.mod(np.arctan2(u, -v), 2 * sector)
    angle = np.minimum(angle, 2 * sector - angle)
    radius = np.hypot(u, v)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    inner_x, inner_y = 0.42 * np.cos(sector), 0.42 * np.sin(sector)
    inside: Bools = (inner_y * (x - 1.0) - (inner_x - 1.0) * y) < 0
    return inside


def _heart(u: Floats, v: Floats) -> Bools:
    x, y = 1.25 * u, 0.15 - 1.2 * v
    inside: Bools = (x * x + y * y - 1.0) ** 3 - x * x * y * y * y < 0
    return inside


def _cross(u: Floats, v: Floats) -> Bools:
    a, b = np.abs(u), np.abs(v)
    inside: Bools = (np.minimum(a, b) < 0.28) & (np.maximum(a, b) < 0.92)
    return inside


def _ring(u: Floats, v: Floats) -> Bools:
    radius = np.hypot(u, v)
    inside: Bools = (radius > 0.52) & (radius < 0.95)
    return inside


def _arrow(u: Floats, v: Floats) -> Bools:
    shaft = (u > -0.95) & (u < 0.1) & (np.abs(v) < 0.25)
    inside: Bools = shaft | ((u > 0.0) & (np.abs(v) < 0.85 * (1.0 - u / 0.95)))
    return inside


def _moon(u: Floats, v: Floats) -> Bools:
    inside: Bools = (np.hypot(u + 0.1, v) < 0.95) & (np.hypot(u - 0.4, v) > 0.75)
    return inside


INSIDE: dict[str, Callable[[Floats, Floats], Bools]] = {
    "circle": lambda u, v: np.hypot(u, v) < 0.9,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
    "ring": _ring,
    "diamond": lambda u, v: np.abs(u) / 0.62 + np.abs(v) < 1.0,
    "arrow": _arrow,
    "moon": _moon,
}


@dataclass(frozen=True)
class Look:
    """How each of N pictures is drawn; positions and sizes are fractions of the picture."""

    shape: NDArray[np.int64]  # -1: nothing
    colour: NDArray[np.int64]
    centre: Floats  # [N, 2] x, y
    radius: Floats  # [N, 2] along x, y
    turn: Floats  # radians
    ink: Floats  # [N, 3]
    paper: Floats  # [N, 3]
    shade: Floats  # [N, 2] brightness slope of the background along x, y


def random_look(
    rng: np.random.Generator, shape: NDArray[np.int64], colour: NDArray[np.int64], aspect: float | None = None
) -> Look:
    """Random size, place, turn and background for the given shapes; `aspect` is width over height."""
    n = len(shape)
    stretch = np.full(n, aspect) if aspect else np.exp(rng.uniform(np.log(0.72), np.log(1.85), n))
    size = rng.uniform(0.23, 0.43, n)
    radius = np.stack([size * np.minimum(1.0, 1.0 / stretch), size * np.minimum(1.0, stretch)], 1)
    room = np.clip(0.5 - 0.97 * radius, 0.02, None)
    centre = 0.5 + rng.uniform(-1.0, 1.0, (n, 2)) * room
    ink = PALETTE[np.maximum(colour, 0)] * rng.uniform(0.9, 1.06, (n, 1)) + rng.uniform(-9, 9, (n, 3))
    paper = rng.uniform(12, 105, (n, 1)) + rng.uniform(-18, 18, (n, 3))
    return Look(
        shape=shape,
        colour=colour,
        centre=centre.astype(np.float32),
        radius=radius.astype(np.float32),
        turn=rng.uniform(-0.22, 0.22, n).astype(np.float32),
        ink=np.clip(ink, 0, 255).astype(np.float32),
        paper=np.clip(paper, 0, 255).astype(np.float32),
        shade=rng.uniform(-18, 18, (n, 2)).astype(np.float32),
    )


def draw(look: Look, height: int, width: int, smooth: int = 2) -> Floats:
    """Draw the pictures as float32 [N, height, width, 3] in 0..255, edges smoothed `smooth` times."""
    n = len(look.shape)
    ys = ((np.arange(height * smooth) + 0.5) / (height * smooth)).astype(np.float32)
    xs = ((np.arange(width * smooth) + 0.5) / (width * smooth)).astype(np.float32)
    cover = np.zeros((n, height, width), dtype=np.float32)
    for index, name in enumerate(SHAPES):
        for rows in _portions(np.flatnonzero(look.shape == index)):
            dx = (xs[None, None, :] - look.centre[rows, 0, None, None]) / look.radius[rows, 0, None, None]
            dy = (ys[None, :, None] - look.centre[rows, 1, None, None]) / look.radius[rows, 1, None, None]
            cos, sin = np.cos(look.turn[rows])[:, None, None], np.sin(look.turn[rows])[:, None, None]
            mask = INSIDE[name](dx * cos + dy * sin, dy * cos - dx * sin).astype(np.float32)
            cover[rows] = mask.reshape(len(rows), height, smooth, width, smooth).mean((2, 4))
    slope_x = look.shade[:, 0, None, None] * (np.arange(width, dtype=np.float32) / width - 0.5)[None, None]
    slope_y = (
        look.shade[:, 1, None, None] * (np.arange(height, dtype=np.float32) / height - 0.5)[None, :, None]
    )
    paper = look.paper[:, None, None, :] + (slope_x + slope_y)[..., None]
    return np.asarray(paper + cover[..., None] * (look.ink[:, None, None, :] - paper), dtype=np.float32)


def _portions(rows: NDArray[np.int64], size: int = 64) -> list[NDArray[np.int64]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def degrade(rng: np.random.Generator, pictures: Floats) -> Bytes:
    """What cameras and codecs do: blur, colour blur, noise, and for half of the pictures real JPEG."""
    n = len(pictures)
    out = pictures.copy()
    soft = rng.uniform(0.0, 1.0, (n, 1, 1, 1)).astype(np.float32) * (rng.random((n, 1, 1, 1)) < 0.6)
    out += soft * (_blurred(out) - out)
    grey = out.mean(-1, keepdims=True)
    tint = out - grey
    out = grey + tint + rng.uniform(0, 1, (n, 1, 1, 1)).astype(np.float32) * (_blurred(tint) - tint)
    level = rng.uniform(0, 9, (n, 1, 1, 1)).astype(np.float32) * (rng.random((n, 1, 1, 1)) < 0.6)
    out += rng.standard_normal(out.shape, dtype=np.float32) * level
    result: Bytes = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    for i in np.flatnonzero(rng.random(n) < 0.5):
        result[i] = jpeg_roundtrip(result[i], int(rng.integers(35, 96)))
    return result


def _blurred(x: Floats) -> Floats:
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows = (p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]) / 4
    return np.asarray((rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4, dtype=np.float32)


def jpeg_roundtrip(picture: Bytes, quality: int) -> Bytes:
    """Encode and decode one picture as JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    decoded: Bytes = np.asarray(Image.open(buffer).convert("RGB"))
    return decoded


def random_pictures(
    rng: np.random.Generator, shape: NDArray[np.int64], colour: NDArray[np.int64], side: int = 56
) -> Bytes:
    """Degraded square pictures of the given things, uint8 [N, side, side, 3]."""
    parts = []
    for i in range(0, len(shape), 512):
        look = random_look(rng, shape[i : i + 512], colour[i : i + 512])
        parts.append(degrade(rng, draw(look, side, side)))
    return np.concatenate(parts)
