"""Shell. The entry point of a reasoner process: ``tandem reasoner`` and ``python -m reasoner_svc``.

Arguments are parsed and checked before torch is imported, so that ``--help`` and mistakes cost nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reasoner_svc.config import LANES, ReasonerConfig
from tandem.core.choices import EVICTION, OTHER_RETRIEVAL, RETRIEVAL
from tandem.core.errors import TandemError
from tandem.core.lifetime import die_with_parent, leave, until_called
from tandem.core.listeners import check_own_listeners
from tandem.core.logs import FORMATS, make_formatter, say, set_up
from tandem.core.secret_file import read_secret
from tandem.core.tls_files import add_tls_arguments, tls_from_arguments
from tandem.wire.health import HealthPort
from tandem.wire.leaving import RETURN_S, Leaving
from tandem.wire.tls import check_files

if TYPE_CHECKING:
    from tandem.vlm.embedder import TextEmbedder
    from tandem.vlm.model import VisionLanguageModel

log = logging.getLogger("reasoner_svc")

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ReasonerConfig)}

EXAMPLE = """example:
  tandem reasoner --name reasoner-0 --listen 127.0.0.1:7431 --orchestrator 127.0.0.1:7420 \\
      --secret-file secret --model default --ram-bytes 2147483648
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a reasoner until SIGTERM or SIGINT; returns the exit status."""
    parent_pid = os.getppid()
    args = _parser().parse_args(argv)
    set_up(args.log_format, "reasoner", args.name, level=getattr(logging, args.log_level.upper()))
    if args.die_with_parent:
        die_with_parent(parent_pid)
    formatter = make_formatter(args.log_format, "reasoner", args.name)
    try:
        config = _config(args)
        check_files(config.tls)
        leaving = Leaving(config.drain_s, returns_s=0.0 if args.die_with_parent else RETURN_S)
        return asyncio.run(_serve(config, formatter, leaving))
    except TandemError as error:
        for line in error.message.splitlines():
            say(f"tandem reasoner: {line}", formatter, level=logging.ERROR)
        return 2


async def _serve(config: ReasonerConfig, formatter: logging.Formatter, leaving: Leaving) -> int:
    port = HealthPort(config.health)
    try:
        await port.start()
        return await _serve_watched(config, formatter, port, leaving)
    finally:
        await port.close()


async def _serve_watched(
    config: ReasonerConfig, formatter: logging.Formatter, port: HealthPort, leaving: Leaving
) -> int:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leaving.ask)
    model, embedder = await asyncio.to_thread(_load, config)
    if leaving.is_asked:
        return 0
    from reasoner_svc.app import Reasoner

    if config.standby:
        log.info("in reserve")
        if not await leaving.unless_asked(until_called()):
            return 0
    reasoner = Reasoner(config, model, embedder=embedder, leaving=leaving)
    reasoner.health_address = port.address
    address = await reasoner.start()
    check_own_listeners(allowed=config.allow_wildcard)
    port.follow(lambda: reasoner.leaving.takes_work(reasoner.attachment))
    say(f"reasoner {config.name} is ready on {address} (pid {os.getpid()})", formatter)
    waits = [asyncio.create_task(each) for each in (leaving.asked(), reasoner.failed.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    await reasoner.stop(0.0 if reasoner.failed.is_set() else await reasoner.leave())
    return 1 if reasoner.failed.is_set() else 0


def _load(config: ReasonerConfig) -> tuple[VisionLanguageModel, TextEmbedder | None]:
    """All that takes long, a hub's answers included: whoever probes this process hears of it meanwhile."""
    began_s = time.monotonic()
    import torch

    import reasoner_svc.app  # noqa: F401 - all that is heavy, in this thread
    from tandem.vlm.embedders.pick import load_text_embedder
    from tandem.vlm.load import load_model

    loaded_s = time.monotonic()
    log.info("imports took %.1f s", loaded_s - began_s)
    if config.threads:
        torch.set_num_threads(config.threads)
    model = load_model(
        config.model,
        revision=config.revision or None,
        load_format=config.load_format,
        dtype=config.dtype or None,
        device=config.device,
        max_pixels=config.max_pixels or None,
    )
    embedder = load_text_embedder(
        config.embedder,
        config.model,
        load_format=config.load_format,
        device=config.device,
        revision=config.embedder_revision or None,
        model_revision=config.revision or None,
    )
    log.info("the model took %.1f s", time.monotonic() - loaded_s)
    return model, embedder


def _config(args: argparse.Namespace) -> ReasonerConfig:
    return ReasonerConfig(
        name=args.name,
        listen=args.listen,
        advertise=args.advertise,
        lanes=tuple(lane for lane in args.lanes.split(",") if lane),
        gloo_host=args.gloo_host,
        orchestrator=args.orchestrator,
        secret=read_secret(Path(args.secret_file)),
        model=args.model,
        revision=args.revision,
        load_format=args.load_format,
        dtype=args.dtype,
        device=args.device,
        max_pixels=args.max_pixels,
        threads=args.threads,
        ram_bytes=args.ram_bytes,
        eviction=args.eviction,
        data_dir=args.data_dir,
        disk_bytes=args.disk_bytes,
        stream_disk_bytes=args.stream_disk_bytes,
        keep_hours=args.keep_hours,
        fsync_s=args.fsync_seconds,
        view_tokens=args.view_tokens,
        notes_tokens=args.notes_tokens,
        retrieval=args.retrieval,
        other_retrieval=tuple(name for name in args.other_retrieval.split(",") if name),
        retrieve_blocks=args.retrieve_blocks,
        pool_bytes=args.pool_bytes,
        embedder=args.embedder,
        embedder_revision=args.embedder_revision,
        max_streams=args.max_streams,
        max_workers=args.max_workers,
        worker_templates=args.worker_templates,
        worker_template=args.worker_template,
        difficulty_probe=args.difficulty_probe,
        head_scores=args.head_scores,
        drain_s=args.drain_seconds,
        reflection=args.reflection,
        standby=args.standby,
        metrics=args.metrics,
        health=args.health,
        allow_wildcard=args.allow_wildcard,
        tls=tls_from_arguments(args),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem reasoner",
        description="Holds the KV blocks of streams and answers questions over them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--name", required=True, help="name in the cluster; tickets are issued to it")
    add("--listen", default="127.0.0.1:0", help="address to listen on; port 0 picks a free one (%(default)s)")
    add("--advertise", default="", help="address that others use; default: the address it listens on")
    add("--lanes", default=",".join(LANES), help="lane kinds that encoders may use (%(default)s)")
    add("--gloo-host", default=_DEFAULTS["gloo_host"], help="address that Gloo lanes listen on (%(default)s)")
    add("--orchestrator", default="", help="address of the orchestrator; empty: serve alone")
    add("--secret-file", required=True, help="file with the cluster secret, at least 16 bytes")
    add("--model", default="default", help="path, hub name, 'default' or 'dummy:...' (%(default)s)")
    add("--revision", default="", help="commit, tag or branch of the hub; empty: the newest")
    add("--load-format", default="auto", help="'auto', or 'dummy' for random weights (%(default)s)")
    add("--dtype", default="", help="float32, bfloat16 or float16; empty: the model's own for the device")
    add("--device", default="cpu", help="cpu or cuda:N (%(default)s)")
    add("--max-pixels", type=int, default=0, help="pixel budget of a frame, as the encoders have it; 0: own")
    add("--ram-bytes", type=int, default=_DEFAULTS["ram_bytes"], help="budget of the store (%(default)s)")
    add("--eviction", default="", help=f"who leaves RAM first: {', '.join(EVICTION)}")
    add("--data-dir", default="", help="folder for blocks on disk; empty: what leaves RAM is lost")
    add("--disk-bytes", type=int, default=_DEFAULTS["disk_bytes"], help="budget of the disk (%(default)s)")
    add("--stream-disk-bytes", type=int, default=0, help="quota of a stream on disk; 0: none")
    add(
        "--keep-hours", type=float, default=0.0, help="delete older blocks from disk; 0: only when it is full"
    )
    add("--fsync-seconds", type=float, default=_DEFAULTS["fsync_s"], help="0: at once; negative: never")
    add("--max-streams", type=int, default=_DEFAULTS["max_streams"], help="streams at once (%(default)s)")
    add("--view-tokens", type=int, default=0, help="newest tokens in view; 0: what the model was made for")
    add(
        "--notes-tokens",
        type=int,
        default=_DEFAULTS["notes_tokens"],
        help="of notes in view; -1: the model's own",
    )
    add("--retrieval", default=_DEFAULTS["retrieval"], help=f"one of {', '.join(RETRIEVAL)} (%(default)s)")
    add(
        "--other-retrieval",
        default=",".join(OTHER_RETRIEVAL),
        help="more that questions may name (%(default)s)",
    )
    add("--retrieve-blocks", type=int, default=-1, help="older blocks in view; 0: none; -1: the model's own")
    add("--pool-bytes", type=int, default=_DEFAULTS["pool_bytes"], help="device pool (%(default)s)")
    add("--embedder", default="auto", help="as the encoders have it, for external retrieval (%(default)s)")
    add("--embedder-revision", default="", help="the same, of an embedder that is loaded from there")
    add("--max-workers", type=int, default=_DEFAULTS["max_workers"], help="workers a question (%(default)s)")
    add("--worker-templates", default="", help="file with more prompts for workers; see docs/workers.md")
    add(
        "--difficulty-probe", default="", help="file with a probe for adaptive thinking; see docs/thinking.md"
    )
    add("--head-scores", default="", help="file with scores for classes of heads; see docs/thinking.md")
    add("--worker-template", default=_DEFAULTS["worker_template"], help="of questions that name none")
    add("--threads", type=int, default=0, help="threads of torch; 0: its own choice")
    add("--drain-seconds", type=float, default=_DEFAULTS["drain_s"], help="grace at SIGTERM (%(default)s)")
    add("--allow-wildcard", action="store_true", help="start although something listens on every interface")
    add("--die-with-parent", action="store_true", help="end when the process that started this one ends")
    add("--standby", action="store_true", help="load the model, then wait for 'go' on standard input")
    add("--reflection", action="store_true", help="let tools list the services of this process")
    add("--metrics", default="", metavar="HOST:PORT", help="serve Prometheus metrics here; empty: nowhere")
    add("--health", default="", metavar="HOST:PORT", help="serve grpc.health.v1 in plain text, for probes")
    add("--log-format", default="text", choices=FORMATS, help="of all logs (%(default)s)")
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    add_tls_arguments(parser, serves=True)
    return parser


if __name__ == "__main__":
    leave(main())
