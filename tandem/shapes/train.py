"""Train the default model from nothing: tower, picture bank, text model, checkpoint, pooled embedder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tandem.shapes.evaluate import MODEL_FOLDER, load
from tandem.shapes.export import export
from tandem.shapes.network import make_model
from tandem.shapes.tokenizer import vocabulary
from tandem.shapes.train_pooled import STEPS as POOLED_STEPS
from tandem.shapes.train_pooled import train_pooled
from tandem.shapes.train_text import Stage, TextTrainer
from tandem.shapes.train_tower import feature_bank, train_tower

MODEL_SEED, TOWER_SEED, BANK_SEED, TEXT_SEED, POOLED_SEED = 11, 101, 202, 303, 404
TOWER_PICTURES, TOWER_STEPS, BANK_PICTURES = 32_000, 2700, 240
POOLED_PICTURES, HELD_OUT_PICTURES = 80, 20
"""Of each thing, for the pooled embedder."""
RATE, RESUME_RATE = 2e-3, 6e-4
STAGES: tuple[Stage, ...] = (
    Stage(300, 2, 10, 160, 8000),
    Stage(1000, 4, 28, 240, 8000),
    Stage(1000, 6, 64, 320, 8000),
    Stage(2000, 12, 168, 400, 9000),
    Stage(700, 12, 168, 400, 9000, half=False),
    Stage(1500, 12, 168, 400, 9000, half=False, recall=0.6),
    Stage(3000, 12, 168, 400, 5000, half=False, recall=0.15, notes=0.5),
)


def shorten(stages: Sequence[Stage], part: float) -> list[Stage]:
    """The same curriculum with only a part of its steps (for trying things out)."""
    return [replace(stage, steps=max(1, int(stage.steps * part))) for stage in stages]


def even_out(model: Any, bank: torch.Tensor) -> torch.Tensor:
    """Scale the tower's last layer, and the bank, so that visual tokens have unit spread."""
    spread = float(bank.std())
    last = model.model.visual.merger.mlp[2]
    with torch.no_grad():
        last.weight /= spread
        last.bias /= spread
    return bank / spread


def train(folder: Path, part: float = 1.0, threads: int = 2, resume: Path | None = None) -> None:
    """Train and write the checkpoint to `folder`; it is written now and then and after every stage.

    With `resume`, start from that checkpoint: its tower is kept and only the last stage runs again, at a
    lower rate. The checkpoint is written now and then, so a run that was stopped goes on from what it wrote.
    """
    torch.set_num_threads(threads)
    began = time.time()
    words = vocabulary()
    if resume is None:
        model = make_model(words, MODEL_SEED)
        steps = max(10, int(TOWER_STEPS * part))
        right = train_tower(model.model.visual, TOWER_SEED, TOWER_PICTURES, steps)
        print(f"tower: {right:.4f} of held-out pictures right after {time.time() - began:.0f} s", flush=True)
    else:
        model = load(resume).net
    bank = feature_bank(model.model.visual, BANK_SEED, BANK_PICTURES)
    if resume is None:
        bank = even_out(model, bank)
    rate = RATE if resume is None else RESUME_RATE
    trainer = TextTrainer(model, bank, words, TEXT_SEED if resume is None else TEXT_SEED + 1, rate)
    stages = shorten(STAGES if resume is None else STAGES[-1:], part)
    trainer.run(stages, lambda: export(model, folder))
    _train_pooled(bank, folder, part)
    print(f"trained in {time.time() - began:.0f} s, written to {folder}", flush=True)


def retrain_pooled(folder: Path, part: float = 1.0, threads: int = 2) -> None:
    """Train the pooled embedder of the checkpoint in `folder` alone; needed when its tower changed."""
    torch.set_num_threads(threads)
    pictures = POOLED_PICTURES + HELD_OUT_PICTURES
    _train_pooled(feature_bank(load(folder).net.model.visual, BANK_SEED, pictures), folder, part)


def _train_pooled(bank: torch.Tensor, folder: Path, part: float) -> None:
    pictures, held_out = bank[:, :POOLED_PICTURES], bank[:, -HELD_OUT_PICTURES:]
    train_pooled(pictures, held_out, folder, POOLED_SEED, max(1, int(POOLED_STEPS * part)))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Train the embedded default model from its seeds.")
    parser.add_argument("--output", type=Path, default=MODEL_FOLDER, help="folder for the checkpoint")
    parser.add_argument("--part", type=float, default=1.0, help="part of the steps to run, for a quick try")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--resume", type=Path, help="start from this checkpoint instead of from nothing")
    parser.add_argument(
        "--pooled-only",
        action="store_true",
        help="train only the maps of the pooled embedder, for the checkpoint in --output",
    )
    options = parser.parse_args()
    if options.pooled_only:
        retrain_pooled(options.output, options.part, options.threads)
        return
    train(options.output, options.part, options.threads, options.resume)


if __name__ == "__main__":
    main()
