"""Pure: the options of a question that `tandem ask` and `tandem watch` share. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tandem.commands.base import positive, share, whole
from tandem.commands.thinking_options import add_thinking_options, thinking_of

if TYPE_CHECKING:
    from tandem.client import Retrieval, Workers

__all__ = ["add_question_options", "count", "retrieval_of", "thinking_of", "workers_of"]


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """How long a question may wait, and how older video comes back into its view."""
    parser.add_argument(
        "--retrieval",
        default="",
        metavar="NAME",
        help="how older video comes back into view: rekv, external, uniform, recent (none of it), or another "
        "that the server was started with (default: the server's own)",
    )
    parser.add_argument(
        "--blocks",
        type=count,
        default=0,
        metavar="N",
        help="most older blocks that come back (default: the server's limit, which is also the most)",
    )
    parser.add_argument(
        "--mass",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="bring back no more blocks than have this share of all scores' softmax, 0 to 1 (default: all)",
    )
    parser.add_argument(
        "--chunk",
        type=count,
        default=0,
        metavar="N",
        help="neighbouring blocks that come back together (default: 1)",
    )
    parser.add_argument(
        "--load-budget",
        type=positive,
        default=0.0,
        metavar="SECONDS",
        help="leave out what would take longer to read from disk (default: no limit)",
    )
    parser.add_argument(
        "--latency-budget",
        type=positive,
        default=0.0,
        metavar="SECONDS",
        help="longest wait for the frames before the question (default: the server's)",
    )
    add_worker_options(parser)
    add_thinking_options(parser)


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Who thinks before the answer."""
    group = parser.add_argument_group("parallel workers (docs/workers.md)")
    group.add_argument(
        "--workers",
        type=count,
        default=0,
        metavar="K",
        help="so many think first (default: nobody)",
    )
    group.add_argument(
        "--layout",
        default="combined",
        choices=("contiguous", "interleaved", "combined"),
        help="how they see each other's text (default: %(default)s)",
    )
    group.add_argument(
        "--think-tokens",
        type=count,
        default=0,
        metavar="N",
        help="most of each worker",
    )
    group.add_argument(
        "--self-check",
        type=whole,
        metavar="N",
        help="tokens of a worker between two self-checks, 0 for none (default: the server's)",
    )
    group.add_argument(
        "--template", default="", metavar="NAME", help="the workers' prompts (default: the server's)"
    )
    group.add_argument(
        "--wait-for-all", action="store_true", help="answer when all workers are done, not when the first is"
    )


def workers_of(arguments: argparse.Namespace) -> Workers | None:
    """The wish for workers; None without any."""
    from tandem.client import WorkerLayout, Workers

    if not arguments.workers:
        return None
    return Workers(
        count=arguments.workers,
        layout=WorkerLayout(arguments.layout),
        max_tokens=arguments.think_tokens,
        self_check_tokens=arguments.self_check,
        wait_for_all=arguments.wait_for_all,
        template=arguments.template,
    )


def retrieval_of(arguments: argparse.Namespace) -> Retrieval | None:
    """The wish for older video; None when nothing was said of it."""
    from tandem.client import Retrieval

    wish = Retrieval(
        strategy=arguments.retrieval,
        blocks=arguments.blocks,
        mass=arguments.mass,
        chunk=arguments.chunk,
        load_budget_s=arguments.load_budget,
    )
    return wish if wish != Retrieval() else None


def count(text: str) -> int:
    """Argument type: a whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above zero, not {text!r}")
    return int(text)
