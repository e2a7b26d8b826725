"""Pure: the options of a question about the answerer's own thinking. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tandem.commands.base import share, whole

if TYPE_CHECKING:
    from tandem.client import Thinking, ThinkingEviction, ThinkingRollover, ThinkingSubtasks


def add_thinking_options(parser: argparse.ArgumentParser) -> None:
    """The answerer's own thinking, what ends it, and what stays of it."""
    group = parser.add_argument_group("thinking of the answerer itself (docs/thinking.md)")
    group.add_argument(
        "--think",
        type=whole,
        default=None,
        metavar="TOKENS",
        help="think first, for so many tokens at most; the answer's tokens are apart (default: it does not)",
    )
    group.add_argument("--think-open", default=None, metavar="TEXT", help='begins it (default: "<think>")')
    group.add_argument("--think-close", default="", metavar="TEXT", help='ends it (default: "</think>")')
    group.add_argument("--loop-guard", action="store_true", help="end what repeats itself")
    group.add_argument(
        "--convergence", action="store_true", help="end thinking that made up its mind or gets nowhere"
    )
    add = group.add_argument
    add(
        "--keep-thoughts",
        type=whole,
        default=None,
        metavar="TOKENS",
        help="so many generated tokens stay on the device, those that are attended to again (0: the server's "
        "number; default: all stay)",
    )
    add("--evict-every", type=whole, default=0, metavar="TOKENS", help="from one look to the next")
    add(
        "--round",
        type=whole,
        default=None,
        metavar="TOKENS",
        help="think in rounds of so many tokens, each on a summary of the one before it (0: the server's "
        "number; default: one round)",
    )
    add("--rounds", type=whole, default=0, metavar="N", help="at most (default: the server's number)")
    add("--summary-tokens", type=whole, default=0, metavar="TOKENS", help="of a summary at most")
    add(
        "--drop-subtasks",
        type=whole,
        default=None,
        metavar="N",
        help="finished lists of sub-tasks leave the thinking, but for the newest N",
    )
    add(
        "--verify", action="store_true", help="ask the model, apart, what the thinking states; end it by that"
    )
    add("--adaptive", action="store_true", help="the server's probe decides how much is thought")
    add(
        "--head-sparsity",
        type=share,
        default=None,
        metavar="SHARE",
        help="so many of the heads (0 to 1) see the beginning and the newest of the thinking alone",
    )


def thinking_of(arguments: argparse.Namespace) -> Thinking | None:
    """The wish for thinking; None without any."""
    from tandem.client import Thinking, ThinkingHeads, ThinkingVerifier

    if arguments.think is None:
        return None
    return Thinking(
        open=arguments.think_open,
        close=arguments.think_close,
        max_tokens=arguments.think,
        loop_guard=arguments.loop_guard,
        convergence=arguments.convergence,
        eviction=_eviction(arguments),
        rollover=_rollover(arguments),
        subtasks=_subtasks(arguments),
        verifier=ThinkingVerifier() if arguments.verify else None,
        adaptive=arguments.adaptive,
        heads=None if arguments.head_sparsity is None else ThinkingHeads(sparsity=arguments.head_sparsity),
    )


def _eviction(arguments: argparse.Namespace) -> ThinkingEviction | None:
    from tandem.client import ThinkingEviction

    if arguments.keep_thoughts is None:
        return None
    return ThinkingEviction(capacity=arguments.keep_thoughts, window=arguments.evict_every)


def _rollover(arguments: argparse.Namespace) -> ThinkingRollover | None:
    from tandem.client import ThinkingRollover

    if arguments.round is None:
        return None
    return ThinkingRollover(
        round_tokens=arguments.round,
        summary_tokens=arguments.summary_tokens,
        max_rounds=arguments.rounds,
    )


def _subtasks(arguments: argparse.Namespace) -> ThinkingSubtasks | None:
    from tandem.client import ThinkingSubtasks

    return None if arguments.drop_subtasks is None else ThinkingSubtasks(keep=arguments.drop_subtasks)
