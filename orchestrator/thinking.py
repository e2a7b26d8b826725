"""Pure. What reasoners started here allow of parallel workers: options, checks, and how they are handed on.

What they mean in full: `docs/workers.md`.
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


def from_arguments(args: argparse.Namespace) -> Thinking:
    """What was parsed; not checked yet."""
    templates = args.worker_templates
    return Thinking(
        max_workers=args.max_workers,
        worker_templates=str(Path(templates).expanduser().absolute()) if templates else "",
        worker_template=args.worker_template,
    )


def problems(thinking: Thinking) -> list[str]:
    """One sentence a mistake; which templates a file holds the reasoner says."""
    found = []
    if not 1 <= thinking.max_workers <= MAX_WORKERS:
        found.append(f"--max-workers is {thinking.max_workers}: give 1 to {MAX_WORKERS}")
    if thinking.worker_templates and not Path(thinking.worker_templates).is_file():
        found.append(f"--worker-templates {thinking.worker_templates}: no such file")
    return found


def flags(thinking: Thinking) -> list[str]:
    """The options of a reasoner, as `python -m reasoner_svc` takes them."""
    values = {
        "--max-workers": thinking.max_workers,
        "--worker-templates": thinking.worker_templates,
        "--worker-template": thinking.worker_template,
    }
    return [f"{option}={value}" for option, value in values.items()]
