"""Shell: `tandem ask`: ask about a stream that somebody feeds or fed."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

from tandem.commands.base import Command, Exit, add_address, add_json, positive, security_of
from tandem.commands.question import add_question_options, retrieval_of, thinking_of, workers_of

if TYPE_CHECKING:
    from tandem.client import Answer, Sampling

_EXAMPLE = """\
tandem ask door 'Who came in last?'
tandem ask door 'What is shown now?' --now --json
tandem ask door 'What was on the table this morning?' --retrieval uniform --blocks 32
tandem ask door 'Who came first, and what did they carry?' --workers 4 --layout combined"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("stream", metavar="STREAM", help="the stream's id; `tandem streams` lists them")
    parser.add_argument("question", metavar="QUESTION")
    parser.add_argument(
        "--now", action="store_true", help="answer from what is watched, without waiting for newer frames"
    )
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="longest answer, in tokens")
    parser.add_argument("--temperature", type=positive, default=0.0, help="sample instead of the best token")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    add_question_options(parser)
    add_address(parser)
    add_json(parser, "the answer's record as one JSON object")


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_ask(arguments))


async def _ask(arguments: argparse.Namespace) -> int:
    from tandem.client import Answer, Thought, connect
    from tandem.commands.thinking import ThoughtLines

    thoughts = ThoughtLines()
    async with connect(arguments.address, security=security_of(arguments)) as t:
        pieces = t.ask_stream(
            arguments.stream,
            arguments.question,
            sampling=_sampling(arguments),
            at_once=arguments.now,
            latency_budget_s=arguments.latency_budget,
            retrieval=retrieval_of(arguments),
            workers=workers_of(arguments),
            thinking=thinking_of(arguments),
        )
        async for piece in pieces:
            if isinstance(piece, Thought):
                _print_thoughts(thoughts.add(piece), as_json=arguments.json)
                continue
            _print_thoughts(thoughts.rest(), as_json=arguments.json)
            if isinstance(piece, Answer):
                _print_record(piece, as_json=arguments.json)
            elif not arguments.json:
                print(piece, end="", flush=True)
    return Exit.OK


def _sampling(arguments: argparse.Namespace) -> Sampling:
    from tandem.client import Sampling

    return Sampling(temperature=arguments.temperature, seed=arguments.seed, max_tokens=arguments.max_tokens)


def _print_thoughts(lines: list[tuple[str, str]], *, as_json: bool) -> None:
    """Apart from the answer, which alone is on standard output."""
    for worker, text in () if as_json else lines:
        print(f"[worker {worker}] {text}", file=sys.stderr, flush=True)


def _print_record(answer: Answer, *, as_json: bool) -> None:
    from tandem.commands.words import answer_words, gap_words, plain, workers_words

    if as_json:
        print(json.dumps(plain(answer), ensure_ascii=False))
        return
    print()
    print(f"[{answer_words(answer)}]", file=sys.stderr)
    if answer.workers:
        print(f"[{workers_words(answer)}]", file=sys.stderr)
    for gap in answer.gaps:
        print(f"[{gap_words(gap)}]", file=sys.stderr)


COMMAND = Command(
    name="ask",
    summary="ask about a stream that somebody feeds or fed",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
