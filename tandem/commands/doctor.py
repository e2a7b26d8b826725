"""Shell: `tandem doctor`: look at everything that can be missing or wrong, and say what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tandem import __version__
from tandem.commands.base import Command, Exit, add_address, security_of
from tandem.commands.findings import Finding, Mark
from tandem.core.errors import PermissionRefused, TandemError

if TYPE_CHECKING:
    from tandem.client import Security

_EXAMPLE = """\
tandem doctor
tandem doctor --address 127.0.0.1:7420 --model default"""

_BASE = (
    *("grpcio", "grpcio-health-checking", "grpcio-reflection", "protobuf", "msgpack", "rich"),
    "prometheus-client",
)
_EXTRAS = {
    "model": ("torch", "transformers", "tokenizers", "safetensors", "numpy", "xxhash"),
    "media": ("av", "pillow"),
    "ray": ("ray",),
}
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 (it is only measured)
_SHARED_MEMORY_BYTES = 64 * 1024 * 1024
"""Room for the rings of the shared-memory lane between a few encoders and reasoners."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="default", help="also load this model (default: the embedded one)")
    parser.add_argument("--no-model", action="store_true", help="do not load a model (the slow check)")
    add_address(parser)


def _run(arguments: argparse.Namespace) -> int:
    bad = 0
    for finding in _findings(arguments):
        bad += finding.mark is Mark.BAD
        print(f"{finding.mark.value:>5}  {finding.what}", flush=True)
        if finding.remedy:
            print(f"       -> {finding.remedy}", flush=True)
    print("everything is well" if not bad else f"{bad} to put right")
    return Exit.FINDING if bad else Exit.OK


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    yield _python()
    yield from _packages()
    yield _shared_memory()
    yield _temporary_files()
    if _installed("ray"):
        from tandem.commands.doctor_ray import ray_findings

        yield from ray_findings()
    if not arguments.no_model and _installed("torch") and _installed("transformers"):
        yield _torch()
        yield _guarded("loading the model", lambda: _model(arguments.model))
    yield from asyncio.run(_server(arguments.address, security_of(arguments)))


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding(Mark.OK, f"Python {version}, Tandem {__version__}, {len(os.sched_getaffinity(0))} cores")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    for extra, packages in {"": _BASE, **_EXTRAS}.items():
        found = {package: _installed(package) for package in packages}
        missing = [package for package, version in found.items() if version is None]
        target = f"'tandem[{extra}]'" if extra else "tandem"
        if not missing:
            listed = ", ".join(f"{package} {version}" for package, version in found.items())
            yield Finding(Mark.OK, listed)
        elif extra:
            why = {"model": "encoder and reasoner", "media": "files and cameras", "ray": "services on Ray"}[
                extra
            ]
            yield Finding(
                Mark.NOTE, f"not installed: {', '.join(missing)}", f"pip install {target}, to run {why} here"
            )
        else:
            yield Finding(Mark.BAD, f"not installed: {', '.join(missing)}", f"pip install {target}")


def _shared_memory() -> Finding:
    if not _SHARED_MEMORY.is_dir():
        return Finding(Mark.NOTE, "no /dev/shm", "blocks will travel over TCP on this machine")
    usage = os.statvfs(_SHARED_MEMORY)
    free = usage.f_bavail * usage.f_frsize
    what = f"shared memory: {free / 2**20:.0f} MiB free"
    if free < _SHARED_MEMORY_BYTES:
        return Finding(Mark.BAD, what, f"give /dev/shm {_SHARED_MEMORY_BYTES >> 20} MiB (docker: --shm-size)")
    return Finding(Mark.OK, what)


def _temporary_files() -> Finding:
    try:
        with tempfile.NamedTemporaryFile(prefix="tandem-doctor-"):
            return Finding(Mark.OK, f"temporary files in {tempfile.gettempdir()}")
    except OSError as error:
        return Finding(
            Mark.BAD, f"no temporary files ({error.strerror})", "set TMPDIR to a writable directory"
        )


def _torch() -> Finding:
    torch = importlib.import_module("torch")
    devices = "no CUDA device: everything runs on the CPU"
    if torch.cuda.is_available():
        names = (torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        devices = ", ".join(names)
    return Finding(Mark.OK, f"torch {torch.__version__} with {torch.get_num_threads()} threads, {devices}")


def _model(source: str) -> Finding:
    began_s = time.monotonic()
    model = importlib.import_module("tandem.vlm.load").load_model(source)
    took = f"{time.monotonic() - began_s:.1f} s"
    return Finding(Mark.OK, f"model {source!r} loads in {took}, fingerprint {model.fingerprint}")


def _guarded(what: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except TandemError as error:
        return Finding(Mark.BAD, f"{what}: {error.message} [{error.code.value}]")
    except Exception as error:  # a doctor reports what it finds, whatever it is
        return Finding(Mark.BAD, f"{what}: {type(error).__name__}: {error}")


async def _server(address: str, security: Security) -> list[Finding]:
    from tandem.client import connect
    from tandem.commands.checkup import stream_findings
    from tandem.wire.channel import parse_address

    host, port = parse_address(address)
    try:
        async with connect(address, security=security) as t:
            status = await t.status(timeout_s=3.0)
            streams = await t.streams()
    except PermissionRefused as error:
        return [
            Finding(Mark.NOTE, f"{address} answers: {error.message}", "--token-file, for all that it tells")
        ]
    except TandemError:
        return [_nobody(address, host, port)]
    return _describe(address, status) + list(stream_findings(streams))


def _nobody(address: str, host: str, port: int) -> Finding:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return Finding(
            Mark.BAD,
            f"{address} is taken by something else, or speaks TLS to others",
            "pick another port: --listen, --address; or name its CA: --tls-ca",
        )
    return Finding(Mark.NOTE, f"nothing runs at {address}", "start the services with `tandem up`")


def _describe(address: str, status: object) -> list[Finding]:
    from tandem.client.overview import Status
    from tandem.commands.checkup import (
        decision_findings,
        release_findings,
        scaling_findings,
        service_findings,
    )
    from tandem.commands.listening import listener_findings

    assert isinstance(status, Status), status
    findings = [Finding(Mark.OK, f"Tandem {status.build.version} answers at {address}")]
    runs = {service.model.fingerprint for service in status.services if service.state == "ready"}
    if status.build.version != __version__:
        findings.append(
            Finding(
                Mark.NOTE, f"this is Tandem {__version__}, the server {status.build.version}", "update one"
            )
        )
    for service in status.services:
        findings += service_findings(service)
    findings += release_findings(status.services, status.build.version)
    findings += decision_findings(status.decisions)
    findings += scaling_findings(status.scaling)
    if not status.ready:
        findings.append(Finding(Mark.BAD, "no encoder and reasoner are ready", "wait, or see the logs"))
    if len(runs) > 1:
        findings.append(
            Finding(
                Mark.BAD,
                f"the services run {len(runs)} models: {', '.join(sorted(runs))}",
                "start all of them with the same model and version",
            )
        )
    findings += listener_findings(status)
    return findings


COMMAND = Command(
    name="doctor",
    summary="look at everything that can be missing or wrong, and say what to do",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
