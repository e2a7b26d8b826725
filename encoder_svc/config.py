"""Pure. Settings of the encoder service, from the command line; every problem is listed at once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from encoder_svc.admit import MediaLimits
from tandem.core.addresses import is_reachable_address, is_wildcard_host, listen_problem
from tandem.core.blocks import Codec
from tandem.core.errors import InvalidInput
from tandem.core.ids import is_valid_id
from tandem.core.logs import FORMATS
from tandem.core.secret_file import read_secret
from tandem.core.tls_files import NO_TLS, TlsFiles, add_tls_arguments, tls_from_arguments

LOG_LEVELS = ("debug", "info", "warning", "error")
DECODE_IN = ("process", "inside")
LANES = ("shm", "nccl", "gloo")
_POSITIVE = (
    "decode_memory_bytes",
    "decode_cpu_s",
    "run_units",
    "batch_units",
    "max_streams",
    "outbox_blocks",
    "outbox_bytes",
)
_NOT_NEGATIVE = ("window_units", "threads", "decode_threads", "max_pixels", "drain_s", "gap_after_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """All settings. Made by `parse_config`, or directly in tests."""

    name: str = "encoder"
    """Name in the cluster; tickets name it."""
    listen: str = "127.0.0.1:0"
    """Where the service listens, host:port; never a wildcard."""
    advertise: str = ""
    """Address that others use; empty: the address it listens on."""
    orchestrator: str = ""
    """Address of the orchestrator; empty: run on its own."""
    secret_file: str = ""
    """File with the cluster secret."""
    model: str = "default"
    revision: str = ""
    """Commit, tag or branch of the hub that the model is loaded at; empty: the newest."""
    load_format: str = "auto"
    dtype: str = ""
    """Empty: float32 on CPUs, the checkpoint's own elsewhere."""
    device: str = "cpu"
    max_pixels: int = 0
    """Pixel budget of a frame; 0: the checkpoint's own."""
    block_codec: str = "raw"
    """How blocks are written, on the wire, in RAM and on disk: a `Codec`."""
    embedder: str = "auto"
    """What embeds pictures for external retrieval: "pooled" (the checkpoint's own features), a directory or
    hub name of a SigLIP or CLIP checkpoint, "auto" (pooled where offered), "off" or empty."""
    embedder_revision: str = ""
    """Of the hub, where the embedder is loaded from there; empty: the newest."""
    window_units: int = 0
    """Sliding window; 0: what the checkpoint was trained for, else `DEFAULT_WINDOW_UNITS`."""
    run_units: int = 8
    """Most units of one stream in one forward pass; 1 makes results independent of the load, bit for bit."""
    batch_units: int = 16
    """Most units of all streams in one forward pass."""
    threads: int = 0
    """Threads of the model; 0: torch's choice."""
    decode_threads: int = 0
    """Threads that decode media; 0: one per core."""
    decode_in: str = "process"
    """Where media is decoded: "process" (one of its own for each stream, confined), or "inside" this one,
    for sources that are trusted."""
    decode_memory_bytes: int = 1 << 30
    """Most memory of one stream's decoding process, beyond what is loaded there."""
    decode_cpu_s: int = 10
    """Most time of a processor for one picture or packet; 8K video takes a second at most."""
    max_streams: int = 256
    outbox_bytes: int = 256 << 20
    """Most bytes of one stream's blocks that are not published."""
    outbox_blocks: int = 64
    frame_bytes: int = 128 << 20
    """Most bytes of one stream's frames that wait for the model."""
    send_timeout_s: float = 30.0
    publish_patience_s: float = 120.0
    """A reasoner that publishes nothing for so long, while blocks wait, ends the stream."""
    open_patience_s: float = 25.0
    """Longest wait for the model to open a stream's window; the orchestrator waits a little longer."""
    connect_patience_s: float = 10.0
    """Longest wait for a link to a reasoner."""
    link_idle_s: float = 30.0
    """A link that no stream uses is kept so long."""
    drain_s: float = 20.0
    """Longest wait for what is encoded to be published at the end."""
    gap_after_s: float = 2.0
    """A pause of the source longer than this is declared a gap."""
    lanes: tuple[str, ...] = ("shm", "gloo")
    gloo_host: str = "127.0.0.1"
    log_level: str = "info"
    log_format: str = "text"
    """One of `tandem.core.logs.FORMATS`."""
    metrics: str = ""
    """Where Prometheus finds this process's metrics, host:port; empty: nowhere."""
    health: str = ""
    """Where probes find this process's health in plain text, host:port; empty: nowhere."""
    tls: TlsFiles = NO_TLS
    allow_wildcard: bool = False
    """Start although this process listens on every interface somewhere."""
    reflection: bool = False
    """Let tools list the services of this process."""
    die_with_parent: bool = False
    standby: bool = False
    """Load everything, then wait in reserve for a line on standard input; see `tandem.core.lifetime`."""
    limits: MediaLimits = field(default_factory=MediaLimits)

    def problems(self) -> list[str]:
        """Everything that is wrong with these settings; no file is looked at."""
        found = []
        if not is_valid_id(self.name):
            found.append(f"--name: {self.name!r} is not 1 to 64 characters of [A-Za-z0-9._-]")
        for flag, value in (("--listen", self.listen), ("--orchestrator", self.orchestrator)):
            if value and not _is_address(value):
                found.append(f"{flag}: {value!r} is not host:port, for example 127.0.0.1:7430")
        if self.orchestrator and not self.secret_file:
            found.append("--orchestrator needs --secret-file")
        for names, least in ((_POSITIVE, 1), (_NOT_NEGATIVE, 0)):
            found += [
                f"--{name.replace('_', '-')}: must be at least {least}, not {getattr(self, name)}"
                for name in names
                if getattr(self, name) < least
            ]
        if self.log_level not in LOG_LEVELS:
            found.append(f"--log-level: {self.log_level!r} is not one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in FORMATS:
            found.append(f"--log-format: {self.log_format!r} is not one of {', '.join(FORMATS)}")
        for flag, value in (("--metrics", self.metrics), ("--health", self.health)):
            if value and (problem := listen_problem(value)):
                found.append(f"{flag}: {problem}")
        found += self.tls.problems()
        if self.decode_in not in DECODE_IN:
            found.append(f"--decode-in: {self.decode_in!r} is not one of {', '.join(DECODE_IN)}")
        if Codec.named(self.block_codec) is None:
            found.append(f"--block-codec: {self.block_codec!r} is not one of {', '.join(Codec)}")
        if unknown := [lane for lane in self.lanes if lane not in LANES]:
            found.append(f"--lanes: {', '.join(unknown)} (known: {', '.join(LANES)})")
        if not self.lanes:
            found.append(f"--lanes: at least one is needed (known: {', '.join(LANES)})")
        if is_wildcard_host(self.gloo_host):
            found.append(f"--gloo-host: {self.gloo_host!r} names every interface; name one address")
        if self.advertise and not is_reachable_address(self.advertise):
            found.append(f"--advertise: {self.advertise!r} is no host:port that others can connect to")
        return found

    def read_secret(self) -> bytes:
        """The cluster secret. Raises InvalidInput when the file cannot be used."""
        return read_secret(Path(self.secret_file))


def parse_config(argv: Sequence[str]) -> EncoderConfig:
    """Settings from arguments. Raises InvalidInput that lists every problem; argparse exits on bad flags."""
    args = _parser().parse_args(argv)
    given = {name: value for name, value in vars(args).items() if not name.startswith("tls_")}
    lanes = tuple(lane for lane in given.pop("lanes").split(",") if lane)
    config = EncoderConfig(**given, lanes=lanes, tls=tls_from_arguments(args))
    problems = config.problems()
    if problems:
        raise InvalidInput("\n".join(problems))
    return config


def log_names(argv: Sequence[str]) -> tuple[str, str, str]:
    """How to log that settings cannot work: format, role and name, of flags that `parse_config` took."""
    given = _parser().parse_args(argv)
    return given.log_format, "encoder", given.name


_FLAGS = {
    "name": "name in the cluster",
    "listen": "address to listen on; port 0 picks a free one",
    "advertise": "address that others use; default: the address it listens on",
    "orchestrator": "address of the orchestrator; without it the encoder runs on its own",
    "secret_file": "file with the cluster secret",
    "model": "directory, hub name, 'default', or 'dummy:CONFIG' for random weights",
    "revision": "commit, tag or branch of the hub that the model is loaded at; default: the newest",
    "load_format": "'auto', or 'dummy' for random weights",
    "dtype": "float32, bfloat16 or float16; default: float32 on CPUs, else the checkpoint's",
    "device": "torch device, for example cpu or cuda:0",
    "max_pixels": "pixel budget of a frame; 0: the checkpoint's own",
    "block_codec": "how blocks are written on the wire, in RAM and on disk: raw (every bit), or smaller and "
    "a little lossy: bfloat16, float16, int8",
    "embedder": "embeds pictures for external retrieval: 'pooled' (the checkpoint's own), a directory or "
    "hub name of a SigLIP or CLIP checkpoint, 'auto' (pooled where offered), 'off'",
    "embedder_revision": "of the hub, where the embedder is loaded from there; default: the newest",
    "window_units": "sliding window in units; 0: what the checkpoint was trained for",
    "run_units": "most units of one stream in one forward pass; 1: results do not depend on load",
    "batch_units": "most units of all streams in one forward pass",
    "threads": "threads of the model; 0: torch's choice",
    "decode_threads": "threads that decode media; 0: one per core",
    "decode_in": "where media is decoded: 'process', one of its own for each stream with limits, or 'inside' "
    "the encoder, for sources that are trusted",
    "decode_memory_bytes": "most memory of one stream's decoding process",
    "decode_cpu_s": "most seconds of a processor for one picture or packet",
    "max_streams": "most streams at once",
    "outbox_bytes": "most bytes of one stream's blocks that are not published",
    "outbox_blocks": "most blocks of one stream that are not published",
    "drain_s": "longest wait at the end for what is encoded to be published",
    "gap_after_s": "a longer pause of the source is declared a gap",
    "log_level": "debug, info, warning or error",
    "log_format": "text or json",
    "metrics": "serve Prometheus metrics at this host:port; port 0 picks a free one; empty: nowhere",
    "health": "serve grpc.health.v1 in plain text at this host:port, for probes; empty: nowhere",
    "gloo_host": "address that Gloo lanes listen on",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem encoder",
        description="Turns media into KV blocks and sends them to reasoners.",
        epilog="example: tandem encoder --listen 127.0.0.1:7430 --model default --secret-file secret",
        allow_abbrev=False,
    )
    defaults = {item.name: item.default for item in dataclasses.fields(EncoderConfig)}
    for name, text in _FLAGS.items():
        default = defaults[name]
        parser.add_argument(
            "--" + name.replace("_", "-"), type=type(default), default=default, metavar="VALUE", help=text
        )
    parser.add_argument(
        "--lanes",
        default="shm,gloo",
        metavar="LIST",
        help="lane kinds by preference: shm, nccl, gloo",
    )
    parser.add_argument(
        "--reflection", action="store_true", help="let tools list the services of this process"
    )
    parser.add_argument(
        "--allow-wildcard", action="store_true", help="start although something listens on every interface"
    )
    parser.add_argument("--die-with-parent", action="store_true", help="end when the parent process ends")
    parser.add_argument(
        "--standby", action="store_true", help="load the model, then wait for 'go' on standard input"
    )
    add_tls_arguments(parser, serves=True)
    return parser


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(colon and host and port.isdigit() and int(port) <= 65535)
