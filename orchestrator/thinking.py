"""Pure. What reasoners started here allow of workers and thinking: options, checks, how they are handed on.

What they mean in full: `docs/workers.md` and `docs/thinking.md`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from orchestrator.limits import MAX_WORKERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Settings of every reasoner that is started here."""

    max_workers: int = 8
    """On one question."""
    worker_templates: str = ""
    """File with more prompts; absolute; empty: the builtin ones alone."""
    worker_template: str = "marks"
    """Of questions that name none."""
    difficulty_probe: str = ""
    """File with a probe for adaptive thinking; absolute; empty: there is none."""
    head_scores: str = ""
    """File with scores for classes of heads; absolute; empty: there is none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, with their defaults."""
    add, own = parser.add_argument_group("parallel workers on a question").add_argument, Thinking()
    add("--max-workers", type=int, default=own.max_workers, metavar="N", help="most of them (%(default)s)")
    add("--worker-templates", default="", metavar="FILE", help="more prompts for them; see docs/workers.md")
    add(
        "--worker-template",
        default=own.worker_template,
        metavar="NAME",
        help="prompts of questions that name none (%(default)s)",
    )
    add = parser.add_argument_group("thinking of answerers (docs/thinking.md)").add_argument
    add("--difficulty-probe", default="", metavar="FILE", help="lets questions ask for adaptive thinking")
    add("--head-scores", default="", metavar="FILE", help="lets questions ask for classes of heads")


def from_arguments(args: argparse.Namespace) -> Thinking:
    """What was parsed; not checked yet."""
    return Thinking(
        max_workers=args.max_workers,
        worker_templates=_absolute(args.worker_templates),
        worker_template=args.worker_template,
        difficulty_probe=_absolute(args.difficulty_probe),
        head_scores=_absolute(args.head_scores),
    )


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute()) if path else ""


def problems(thinking: Thinking) -> list[str]:
    """One sentence a mistake; which templates a file holds the reasoner says."""
    found = []
    if not 1 <= thinking.max_workers <= MAX_WORKERS:
        found.append(f"--max-workers is {thinking.max_workers}: give 1 to {MAX_WORKERS}")
    for option, path in (
        ("--worker-templates", thinking.worker_templates),
        ("--difficulty-probe", thinking.difficulty_probe),
        ("--head-scores", thinking.head_scores),
    ):
        if path and not Path(path).is_file():
            found.append(f"{option} {path}: no such file")
    return found


def flags(thinking: Thinking) -> list[str]:
    """The options of a reasoner, as `python -m reasoner_svc` takes them."""
    values = {
        "--max-workers": thinking.max_workers,
        "--worker-templates": thinking.worker_templates,
        "--worker-template": thinking.worker_template,
        "--difficulty-probe": thinking.difficulty_probe,
        "--head-scores": thinking.head_scores,
    }
    return [f"{option}={value}" for option, value in values.items()]
