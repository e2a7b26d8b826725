"""The command line of `tandem up` and `tandem orchestrator`, as a config. Pure but for argparse, and for the
default run directory's parent, which is made here.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from orchestrator import memory, thinking
from orchestrator.backends import kubernetes_settings, ray_settings
from orchestrator.backlog import Bounds
from orchestrator.config import OrchestratorConfig, ServiceSettings
from orchestrator.limits import Limits
from orchestrator.quotas import Quotas, read_quotas
from orchestrator.rundir import make_private
from tandem.core.logs import FORMATS
from tandem.core.tls_files import add_tls_arguments, tls_from_arguments

METRICS_ADDRESS = "127.0.0.1:7421"
"""Where metrics are when no address is named."""


def add_arguments(parser: argparse.ArgumentParser, *, encoders: int, reasoners: int) -> None:
    """Every option, with its default."""
    add = parser.add_argument
    add("--listen", default="127.0.0.1:7420", help="where clients connect, host:port (%(default)s)")
    add(
        "--run-dir",
        type=Path,
        help="secret, logs and journal (default: run-PORT in --data-dir, else below the temporary directory)",
    )
    add("--model", default="default", help="path, hub name, 'default' or 'dummy:...' (%(default)s)")
    add("--revision", default="", help="commit, tag or branch of a hub's model (default: the newest)")
    add("--encoders", type=int, default=encoders, help="encoder processes to start (%(default)s)")
    add("--reasoners", type=int, default=reasoners, help="reasoner processes to start (%(default)s)")
    add(
        "--standby",
        action="store_true",
        help="keep a second process of each service in reserve with its model loaded: a lost one is replaced "
        "in a moment, for twice the memory of the models",
    )
    add("--device", default="cpu", help="cpu or cuda:N (%(default)s)")
    add("--dtype", default="", help="float32, bfloat16 or float16; empty: the model's own for the device")
    add(
        "--window-units",
        type=int,
        default=0,
        help="sliding window of the encoder in units; 0: what the checkpoint was trained for",
    )
    add(
        "--decode-in",
        default="process",
        choices=("process", "inside"),
        help="media is decoded in a process of its own for each stream, or inside the encoder, for sources "
        "that are trusted (%(default)s)",
    )
    add("--threads", type=int, default=0, help="torch threads of each service; 0: its own choice")
    add("--max-streams", type=int, default=256, help="streams held at once (%(default)s)")
    add(
        "--quotas",
        type=Path,
        metavar="FILE",
        help="what each tenant may have: a TOML file, see docs/scheduling.md (default: no limits)",
    )
    add(
        "--resume-seconds",
        type=int,
        default=Limits().resume_seconds,
        help="how long a stream without a client is kept (%(default)s)",
    )
    add(
        "--backlog-bytes",
        type=int,
        default=Bounds().max_bytes,
        help="media kept of each stream (%(default)s)",
    )
    add(
        "--backlog-seconds",
        type=float,
        default=Bounds().max_wait_s,
        help="media that waits longer for an encoder that takes nothing in becomes a gap (%(default)s)",
    )
    add(
        "--keep-seconds",
        type=float,
        default=Bounds().keep_us / 1e6,
        help="published media kept to rebuild a lost reasoner without --data-dir (%(default)s)",
    )
    add(
        "--lease-seconds", type=float, default=3.0, help="silence after which a service is lost (%(default)s)"
    )
    add(
        *("--insecure", "--insecure-network"),
        dest="insecure_network",
        action="store_true",
        help="allow an address that other machines can reach, without tokens or callers' certificates",
    )
    add("--reflection", action="store_true", help="let tools list the services of the front door")
    add(
        "--log-level",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="what the terminal shows; the logs below the run directory have more (%(default)s)",
    )
    add(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="the cluster secret, where several orchestrators share it (default: made in the run directory)",
    )
    ray_settings.add_arguments(parser)
    kubernetes_settings.add_arguments(parser)
    memory.add_arguments(parser)
    thinking.add_arguments(parser)
    _add_watching(parser)
    _add_guarding(parser)


def _add_watching(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how it is watched (docs/observability.md)").add_argument
    add(
        "--metrics",
        nargs="?",
        const=METRICS_ADDRESS,
        default="",
        metavar="HOST:PORT",
        help=f"serve Prometheus metrics, those of services that are started here on the ports after it "
        f"(without a value {METRICS_ADDRESS}; default: nowhere)",
    )
    add("--log-format", default="text", choices=FORMATS, help="of all logs (%(default)s)")
    add(
        "--trace-frames",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="where OTEL_EXPORTER_OTLP_ENDPOINT is set, trace one frame of each stream in so many seconds; "
        "0: none (%(default)s)",
    )


def _add_guarding(parser: argparse.ArgumentParser) -> None:
    add_tls_arguments(parser, serves=True)
    add = parser.add_argument_group("who may call (docs/security.md)").add_argument
    add(
        "--tls-any-caller",
        action="store_true",
        help="callers of the front door need no certificate although there is --tls-ca: they bring tokens",
    )
    add(
        "--tokens", type=Path, metavar="FILE", help="who may do what, see `tandem token` (default: everybody)"
    )
    add("--allow-wildcard", action="store_true", help="start although something listens on every interface")
    add(
        "--health",
        default="",
        metavar="HOST:PORT",
        help="serve grpc.health.v1, and nothing else, in plain text for probes (default: nowhere)",
    )


def to_config(args: argparse.Namespace) -> OrchestratorConfig:
    """The settings. Raises `InvalidInput` that names every problem, one a line."""
    tls = tls_from_arguments(args)
    return OrchestratorConfig(
        listen=args.listen,
        tls=tls,
        tokens=args.tokens,
        health=args.health,
        allow_wildcard=args.allow_wildcard,
        run_dir=args.run_dir or default_run_dir(args.listen, args.data_dir),
        insecure_network=args.insecure_network,
        reflection=args.reflection,
        encoders=args.encoders,
        standby=args.standby,
        reasoners=args.reasoners,
        backend=args.backend,
        ray=ray_settings.from_arguments(args),
        kubernetes=kubernetes_settings.from_arguments(args),
        secret_file=args.secret_file,
        services=ServiceSettings(
            model=args.model,
            revision=args.revision,
            device=args.device,
            dtype=args.dtype,
            memory=memory.from_arguments(args),
            thinking=thinking.from_arguments(args),
            window_units=args.window_units,
            threads=args.threads,
            decode_in=args.decode_in,
            log_level="debug" if args.log_level == "debug" else "info",
            log_format=args.log_format,
            tls=tls,
            metrics=args.metrics,
            max_streams=args.max_streams,
        ),
        limits=Limits(resume_seconds=args.resume_seconds),
        bounds=Bounds(
            max_bytes=args.backlog_bytes,
            max_wait_s=args.backlog_seconds,
            keep_us=round(args.keep_seconds * 1e6),
        ),
        max_streams=args.max_streams,
        quotas=read_quotas(args.quotas) if args.quotas else Quotas(),
        heartbeat_s=min(0.5, args.lease_seconds / 6),
        lease_s=args.lease_seconds,
        metrics=args.metrics,
        log_format=args.log_format,
        trace_frames_s=args.trace_frames,
    )


def default_run_dir(listen: str, data_dir: str = "") -> Path:
    """One directory a user and port, so that a restart finds its secret again.

    With `data_dir` it is in there: secret and journal say whose the blocks are, and must last as long.
    Otherwise it makes the user's directory, and raises `InvalidInput` when somebody else made it.
    """
    port = listen.rpartition(":")[2]
    if data_dir:
        return Path(data_dir).expanduser().absolute() / f"run-{port}"
    parent = Path(tempfile.gettempdir()) / f"tandem-{os.getuid()}"
    make_private(parent)
    return parent / port
