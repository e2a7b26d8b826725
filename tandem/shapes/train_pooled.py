"""Last step of training: the maps of the pooled embedder, from the frozen tower's picture bank, in seconds.

Contrastive with several right answers: a question's softmax over pictures should be even over all that show
what it names (a shape, a colour, both), and over all pictures where it names nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tandem.core.errors import Incompatible
from tandem.shapes import tokenizer
from tandem.shapes.layout import pieces
from tandem.shapes.questions import PHRASES
from tandem.shapes.words import COLOUR_NAMES, SHAPES, article, plural, thing
from tandem.vlm.embedders.pooled import PooledMaps
from tandem.vlm.tokens import Tokens

DIM = 32
STEPS, QUESTIONS, POOL = 600, 96, 4096
PICTURES_PER_THING = 2
"""Of each thing in a step."""
RATE, DECAY, NOISE, FIRST_SCALE = 1e-2, 0.01, 0.05, 20.0
BARE = ("{s}", "{ss}", "{c}", "{x}", "{xs}", "the {s}", "a {c} {s}")
"""What people type into a search box, beside whole questions."""


@dataclass(frozen=True)
class Named:
    """A question and what it names; None: any."""

    text: str
    shape: int | None
    colour: int | None

    def matches(self) -> Tensor:
        """bool [things + 1] in the order of the picture bank, the last one nothing."""
        index = torch.arange(len(SHAPES) * len(COLOUR_NAMES))
        shown = torch.ones(len(index), dtype=torch.bool)
        if self.shape is not None:
            shown &= index // len(COLOUR_NAMES) == self.shape
        if self.colour is not None:
            shown &= index % len(COLOUR_NAMES) == self.colour
        nothing = torch.tensor([self.shape is None and self.colour is None])
        return torch.cat((shown, nothing))


def draw_question(rng: np.random.Generator) -> Named:
    """A random question of any kind, or bare words."""
    phrases = [phrase for of_kind in PHRASES.values() for phrase in of_kind] + 2 * list(BARE)
    phrase = phrases[int(rng.integers(len(phrases)))]
    return name_things(phrase, int(rng.integers(len(SHAPES))), int(rng.integers(len(COLOUR_NAMES))), rng)


def name_things(phrase: str, shape: int, colour: int, rng: np.random.Generator) -> Named:
    """A phrase of `questions.PHRASES` about this thing, at a random time."""
    name = thing(shape, colour)
    text = phrase.format(
        s=SHAPES[shape],
        ss=plural(SHAPES[shape]),
        c=COLOUR_NAMES[colour],
        x=name,
        xs=f"{COLOUR_NAMES[colour]} {plural(SHAPES[shape])}",
        ax=article(name),
        t=f"{rng.integers(60):02d}:{rng.integers(60):02d}",
    )
    both = any(slot in phrase for slot in ("{x}", "{xs}", "{ax}"))
    return Named(
        text,
        shape if both or "{s}" in phrase or "{ss}" in phrase else None,
        colour if both or "{c}" in phrase else None,
    )


def _bags(questions: Sequence[Named], words: dict[str, int]) -> Tensor:
    """How often each word of the vocabulary is in each question: [questions, vocabulary]."""
    bags = torch.zeros(len(questions), len(words))
    for row, question in zip(bags, questions, strict=True):
        for piece in pieces(question.text):
            row[words.get(piece, words[tokenizer.UNKNOWN])] += 1
    return bags


def train_maps(bank: Tensor, words: dict[str, int], seed: int, steps: int = STEPS) -> PooledMaps:
    """Train on a picture bank [things + 1, pictures, tokens, hidden] of the frozen tower."""
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    asked = [draw_question(rng) for _ in range(POOL)]
    bags, right = _bags(asked, words), torch.stack([question.matches() for question in asked])
    mean = bank.mean(2)
    things, pictures, hidden = mean.shape
    vision = (torch.randn(DIM, hidden, generator=generator) * hidden**-0.5).requires_grad_()
    bias = torch.zeros(DIM, requires_grad=True)
    # Nearly zero: a word that names nothing stays there, one that is never asked does for certain.
    table = (1e-4 * torch.randn(len(words), DIM, generator=generator)).requires_grad_()
    scale = torch.tensor(FIRST_SCALE).log().requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": [vision, bias, table], "weight_decay": DECAY}, {"params": [scale], "weight_decay": 0.0}]
    )
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 30) * max(0.02, 1 - step / steps)
        rows = torch.randint(POOL, (QUESTIONS,), generator=generator)
        chosen = torch.randint(pictures, (things, PICTURES_PER_THING), generator=generator)
        seen = mean.gather(1, chosen[..., None].expand(-1, -1, hidden)).flatten(0, 1)
        seen = seen + NOISE * torch.randn(seen.shape, generator=generator)
        shown = nn.functional.normalize(seen @ vision.T + bias, dim=-1)
        meant = nn.functional.normalize(bags[rows] @ table, dim=-1)
        want = right[rows].repeat_interleave(PICTURES_PER_THING, 1).float()
        want = want / want.sum(1, keepdim=True)
        loss = nn.functional.cross_entropy(scale.exp() * meant @ shown.T, want)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    asked_words = bags.any(0)
    with torch.no_grad():
        table[~asked_words] = 0.0
    return PooledMaps(vision.detach(), bias.detach(), table.detach())


def precisions(
    text: Callable[[str], Tensor], shown: Tensor, seed: int, questions: int = 600
) -> dict[str, float]:
    """Mean precision over random questions, by what they name: shape, colour, both.

    Of n pictures that show what a question names, the part that is among the n best. `shown` [things + 1,
    pictures, E] is in the order of the picture bank.
    """
    rng, found = np.random.default_rng(seed), defaultdict(list)
    for _ in range(questions):
        question = draw_question(rng)
        if question.shape is None and question.colour is None:
            continue
        names = "both" if None not in (question.shape, question.colour) else None
        names = names or ("colour" if question.shape is None else "shape")
        right = question.matches().repeat_interleave(shown.shape[1])
        best = (shown.flatten(0, 1) @ text(question.text)).topk(int(right.sum())).indices
        found[names].append(float(right[best].float().mean()))
    return {names: sum(values) / len(values) for names, values in sorted(found.items())}


def train_pooled(bank: Tensor, held_out: Tensor, folder: Path, seed: int, steps: int = STEPS) -> None:
    """Train the maps for the checkpoint in `folder`, whose tower made both banks, and write them there."""
    began, words, tokens = time.time(), tokenizer.vocabulary(), Tokens.load(folder)
    if any(tokens.id_of(word) != index for word, index in words.items()):
        raise Incompatible(f"{folder} has another vocabulary than its training would give it now")
    maps = train_maps(bank, words, seed, steps)
    maps.save(folder, tokens)
    shown = maps.of_tokens(held_out.flatten(0, 1)).view(*held_out.shape[:2], DIM)
    found = precisions(lambda question: maps.of_words(tokens.user(question)), shown, seed + 1)
    right = ", ".join(f"{names} {value:.3f}" for names, value in found.items())
    print(f"pooled: precision on held-out pictures {right}; {time.time() - began:.0f} s", flush=True)
