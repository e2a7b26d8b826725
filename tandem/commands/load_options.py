"""Pure: the options of `tandem load` that say what load there is. Imports nothing heavy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tandem.commands.base import positive, share, whole
from tandem.commands.question import count
from tandem.commands.rate_options import add_rate_options

if TYPE_CHECKING:
    from tandem.load.workload import Workload

ARRIVALS = ("constant", "poisson", "gamma", "ramp")


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Streams, questions, clients, times."""
    _add_times(parser.add_argument_group("times and chance"))
    _add_streams(parser.add_argument_group("streams"))
    _add_questions(parser.add_argument_group("questions"))
    _add_clients(parser.add_argument_group("how clients behave"))


def _add_times(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seed", type=whole, default=1, metavar="N", help="of everything (default 1)")
    group.add_argument(
        "--duration", type=positive, default=60.0, metavar="S", help="seconds that are measured (default 60)"
    )
    group.add_argument(
        "--warmup", type=_seconds, default=10.0, metavar="S", help="seconds of load before them (default 10)"
    )
    group.add_argument(
        "--cooldown", type=_seconds, default=2.0, metavar="S", help="seconds of load after them (default 2)"
    )


def _add_streams(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--streams", type=count, default=4, metavar="N", help="open at once, or first of a sweep (default 4)"
    )
    group.add_argument(
        "--stream-arrivals",
        choices=("steady", *ARRIVALS),
        default="steady",
        help="steady: --streams are kept open (default); else they arrive at --stream-rate, whatever happens",
    )
    group.add_argument("--stream-rate", type=positive, default=0.0, metavar="R", help="arrivals a second")
    group.add_argument(
        "--stream-rate-end", type=positive, metavar="R", help="the same at the end (ramp arrivals)"
    )
    group.add_argument(
        "--stream-life",
        type=positive,
        default=0.0,
        metavar="S",
        help="mean life of a stream (default: the run)",
    )
    for name, default, what in (
        ("fps", "1", "frames a second"),
        ("size", "320x240", "pictures' sizes"),
        ("codec", "jpeg", "jpeg or h264"),
    ):
        group.add_argument(
            f"--{name}",
            default=default,
            metavar="V:WEIGHT,…",
            help=f"{what}, drawn a stream (default {default})",
        )
    group.add_argument(
        "--jitter", type=positive, default=0.0, metavar="MS", help="frames are sent up to so much late"
    )
    group.add_argument(
        "--clips", type=count, default=4, metavar="N", help="different videos that streams share (default 4)"
    )
    group.add_argument("--notes", default="", metavar="MODE", help="notes are taken (docs/watching.md)")
    add_rate_options(group, max_lag="off")


def _add_questions(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--arrivals", choices=ARRIVALS, default="poisson", help="of questions (default poisson)"
    )
    group.add_argument(
        "--question-rate", type=_seconds, default=0.1, metavar="R", help="of a stream, a second (default 0.1)"
    )
    group.add_argument(
        "--question-rate-end", type=positive, metavar="R", help="the same at the end (ramp arrivals)"
    )
    group.add_argument(
        "--burstiness",
        type=positive,
        default=1.0,
        metavar="V",
        help="of gamma arrivals: squared variation of the gaps; 1 is Poisson, 10 comes in bursts",
    )
    group.add_argument(
        "--events",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="ask about so many of the things that come into view, at once",
    )
    group.add_argument(
        "--kinds",
        default="",
        metavar="A,B",
        help="kinds of questions, e.g. now,last,count_total (default: all)",
    )
    group.add_argument("--retrieval", default="", metavar="NAME", help="how older video comes back into view")
    group.add_argument("--workers", type=whole, default=0, metavar="K", help="so many think first")
    group.add_argument(
        "--think-tokens",
        type=whole,
        default=0,
        metavar="N",
        help="most thinking of each worker, or of the answerer",
    )
    group.add_argument(
        "--latency-budget", type=_seconds, default=0.0, metavar="S", help="longest wait for frames"
    )
    group.add_argument(
        "--answer-timeout", type=positive, default=30.0, metavar="S", help="then it has failed (default 30)"
    )


def _add_clients(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--second-clients",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="of questions: asked by another client",
    )
    group.add_argument(
        "--reconnects",
        type=_seconds,
        default=0.0,
        metavar="R",
        help="a minute and stream: the client vanishes",
    )
    group.add_argument(
        "--away", type=_seconds, default=1.0, metavar="S", help="and comes back after this (default 1)"
    )
    group.add_argument(
        "--slow-readers",
        type=share,
        default=0.0,
        metavar="SHARE",
        help="of streams: clients that hardly read",
    )
    group.add_argument(
        "--slow-pause", type=positive, default=0.5, metavar="S", help="before each message (default 0.5)"
    )


def workload_of(arguments: argparse.Namespace) -> Workload:
    """The workload of parsed options. Raises `InvalidInput`."""
    from tandem.core.errors import InvalidInput
    from tandem.load.arrivals import Arrivals
    from tandem.load.workload import Workload, checked, choices

    try:
        fps, sizes, codecs = (choices(text) for text in (arguments.fps, arguments.size, arguments.codec))
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    return checked(
        Workload(
            seed=arguments.seed,
            streams=arguments.streams,
            warmup_s=arguments.warmup,
            duration_s=arguments.duration,
            cooldown_s=arguments.cooldown,
            stream_arrivals=arguments.stream_arrivals,
            stream_rate=arguments.stream_rate,
            stream_rate_end=arguments.stream_rate_end,
            stream_life_s=arguments.stream_life,
            fps=fps,
            sizes=sizes,
            codecs=codecs,
            jitter_ms=arguments.jitter,
            min_fps=arguments.min_fps,
            max_lag_s=arguments.max_lag or 0.0,
            tenant=arguments.tenant,
            question_arrivals=Arrivals(arguments.arrivals),
            question_rate=arguments.question_rate,
            question_rate_end=arguments.question_rate_end,
            burstiness=arguments.burstiness,
            event_share=arguments.events,
            reconnects_per_minute=arguments.reconnects,
            away_s=arguments.away,
            slow_share=arguments.slow_readers,
            slow_pause_s=arguments.slow_pause,
            second_share=arguments.second_clients,
            clips=arguments.clips,
            kinds=tuple(kind for kind in arguments.kinds.split(",") if kind),
            retrieval=arguments.retrieval,
            workers=arguments.workers,
            think_tokens=arguments.think_tokens,
            notes=arguments.notes,
            latency_budget_s=arguments.latency_budget,
            answer_timeout_s=arguments.answer_timeout,
        )
    )


def _seconds(text: str) -> float:
    """Argument type: a number from zero."""
    return 0.0 if text == "0" else positive(text)
