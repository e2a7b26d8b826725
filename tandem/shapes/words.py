"""The closed vocabulary of the default model: shapes, colours, and the words of its questions."""

from __future__ import annotations

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
    "arrow",
    "moon",
)

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 36),
    "orange": (250, 140, 20),
    "yellow": (245, 226, 45),
    "green": (36, 165, 55),
    "cyan": (50, 215, 222),
    "blue": (38, 72, 230),
    "purple": (140, 42, 190),
    "pink": (255, 140, 195),
    "white": (245, 245, 245),
}

COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
NOTHING = "nothing"

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

NUMBERS: tuple[str, ...] = tuple(f"{n:02d}" for n in range(100)) + tuple(str(n) for n in range(10))


def plural(shape: str) -> str:
    """The plural of a shape's name ("crosses")."""
    return shape + ("es" if shape.endswith("s") else "s")


def article(word: str) -> str:
    """The word with its indefinite article."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def thing(shape: int, colour: int) -> str:
    """The name of what is shown, without its article ("red star")."""
    return f"{COLOUR_NAMES[colour]} {SHAPES[shape]}"
