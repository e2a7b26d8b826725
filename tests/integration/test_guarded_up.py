"""`tandem up` with all that guards it: mutual TLS, tokens, a plain health port; and what is told of it.

The secrets are marked, so that they are found wherever they should not be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import tandem
from orchestrator.access import digest
from orchestrator.naming import id_of
from tandem.client import MediaKind, MediaOptions, PictureFormat, Security, Status
from tandem.commands.doctor import _describe
from tandem.commands.forget import COMMAND, forget
from tandem.core.errors import InvalidInput, PermissionRefused, TandemError, Unavailable
from tandem.core.listeners import LISTENERS, listeners_of
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.channel import make_channel
from tandem.wire.gen.tandem.v1 import reasoner_pb2, reasoner_pb2_grpc
from tandem.wire.proof import ProvenChannel
from tests.certificates import Ca
from tests.integration.up_processes import PERIOD_MS, START_S, Up, picture, running_up

SECRET = "marked-cluster-secret-0123456789abcdef"
ADMIN, CAMERA, STRANGER = (f"marked-token-of-{who}-0123456789" for who in ("admin", "camera", "stranger"))
TOKENS = {
    ADMIN: 'rights = ["admin"]',
    CAMERA: 'tenant = "acme"',
    STRANGER: 'tenant = "other"',
}


@dataclass(frozen=True)
class Guarded:
    up: Up
    ca: Ca
    folder: Path
    trusted: Security

    def by(self, token: str) -> Security:
        file = self.folder / f"{digest(token)[:8]}.token"
        file.write_text(f"{token}\n")
        return replace(self.trusted, token_file=str(file))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    ca, run_dir, tokens = Ca(folder / "pki"), folder / "run", folder / "tokens.toml"
    tls = ca.issue("service")
    tokens.write_text("".join(f'[[token]]\nsha256 = "{digest(t)}"\n{rest}\n' for t, rest in TOKENS.items()))
    run_dir.mkdir(mode=0o700)
    (run_dir / "secret").write_text(SECRET)
    (run_dir / "secret").chmod(0o600)
    options = [*tls.flags(), "--tokens", str(tokens), "--health", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]
    options += ["--data-dir", str(folder / "blocks")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent / "no_unpickling"), prepend=os.pathsep)
        patch.setenv("PYTHON_UNPICKLED", str(folder / "unpickled"))
        with running_up(run_dir, *options, "--log-level", "debug", "--decode-in", "process") as up:
            yield Guarded(up, ca, folder, Security(tls=ca.issue("client")))


def told(status: Status) -> bool:
    """All are ready, and have said of themselves what the checks below go by: that comes with heartbeats."""
    return status.ready and all({"metrics", LISTENERS} <= set(each.details) for each in status.services)


async def until_ready(address: str, security: Security) -> Status:
    async with tandem.connect(address, security=security) as t:
        deadline_s = time.monotonic() + START_S
        while not told(status := await t.status()) and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    return status


async def test_a_stream_is_watched_and_asked_about_and_nobody_else_sees_it(guarded: Guarded) -> None:
    address = guarded.up.address()
    status = await until_ready(address, guarded.by(ADMIN))
    media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=1000 / PERIOD_MS)
    async with tandem.connect(address, security=guarded.by(CAMERA)) as t:
        async with t.watch(media, stream_id="gate") as stream:
            for index in range(4):
                await stream.push_picture(
                    picture(index), pts_us=index * PERIOD_MS * 1000, picture_format=PictureFormat.PNG
                )
            assert (await stream.ask("What was shown?")).finish_reason
        assert [each.tenant for each in await t.streams()] == ["acme"]
        seen = await t.status()
        assert seen.ready
        assert not seen.listeners
        assert not any(each.address or each.details for each in seen.services)
    async with tandem.connect(address, security=guarded.by(STRANGER)) as t:
        assert await t.streams() == []
        with pytest.raises(TandemError, match="no stream 'gate'"):
            await t.ask("gate", "What was shown?")
    async with tandem.connect(address, security=guarded.trusted) as t:
        with pytest.raises(PermissionRefused, match="--token-file"):
            await t.streams()
    async with tandem.connect(address, security=replace(guarded.by(ADMIN), tls=NO_TLS)) as t:
        with pytest.raises(Unavailable):
            await t.streams()
    await check_services(guarded, status)
    await check_doctor(address, guarded)
    await check_nothing_leaks(guarded, status)
    check_nothing_is_unpickled(guarded)


async def check_services(guarded: Guarded, status: Status) -> None:
    """Its own certificate does not open a service: that takes the cluster secret."""
    reasoner = next(each for each in status.services if each.role == "reasoner")
    request = reasoner_pb2.AnswerRequest(stream_id="gate")
    for secret in (None, b"another secret of another cluster"):
        if secret is None:
            channel = make_channel(reasoner.address, guarded.trusted.tls)
        else:
            channel = ProvenChannel(
                reasoner.address, secret, reasoner.name, reasoner.build.boot_id, guarded.trusted.tls
            )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            async for _ in reasoner_pb2_grpc.ReasonerServiceStub(channel).Answer(request, timeout=5):
                pass
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        await channel.close(None)


async def check_doctor(address: str, guarded: Guarded) -> None:
    async with tandem.connect(address, security=guarded.by(ADMIN)) as t:
        status = await t.status()
    said = "\n".join(finding.what for finding in _describe(address, status))
    assert f"{address} front door (mtls, tokens)" in said
    for each in status.services:
        assert f"{each.address} calls of {each.name} (mtls, cluster secret)" in said
    for process in processes(guarded):
        for listener in listeners_of(process):
            assert f"listens on {listener} " in said, (process, listener, said)
    assert "also listens" not in said, said
    health = next(one.split()[0] for one in status.listeners if " health " in one)
    async with make_channel(health) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "ready"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary("/tandem.v1.TandemService/GetStatus")(b"", timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def check_nothing_leaks(guarded: Guarded, status: Status) -> None:
    """Neither logs nor metrics nor status nor the command lines of processes have a secret in them."""
    pages = [each.details["metrics"] for each in status.services]
    pages += [one.split()[0] for one in status.listeners if " metrics " in one]
    assert len(pages) == 3
    texts = {page: (await asyncio.to_thread(urlopen, f"http://{page}/metrics")).read() for page in pages}
    texts["status"] = repr(status).encode()
    await asyncio.to_thread(lambda: texts.update(files(guarded)))
    assert any("reasoner-0.log" in name for name in texts)
    secret = re.compile("|".join((SECRET, *TOKENS)).encode())
    assert [name for name, text in texts.items() if secret.search(text)] == []


def check_nothing_is_unpickled(guarded: Guarded) -> None:
    """In none of the processes, by nobody: a stream was decoded, encoded, sent, kept and asked about."""
    lines = (guarded.folder / "unpickled").read_text().splitlines()
    watched = [line for line in lines if line.startswith("watched ")]
    for module in (
        "orchestrator.up",
        "orchestrator ",
        "encoder_svc ",
        "encoder_svc.decode.host",
        "reasoner_svc ",
    ):
        assert any(f"-m {module}" in line for line in watched), (module, watched)
    assert [line for line in lines if not line.startswith("watched ")] == []


async def test_an_administrator_forgets_a_tenants_stream_and_no_other(
    guarded: Guarded, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over TLS, with tokens: two tenants have a stream of one name; what is on disk of one of them goes."""
    address, blocks = guarded.up.address(), guarded.folder / "blocks"
    await until_ready(address, guarded.by(ADMIN))
    folders = {tenant: blocks / f"s-{id_of(tenant, 'door')}" for tenant in ("acme", "other")}
    for token, folder in ((CAMERA, folders["acme"]), (STRANGER, folders["other"])):
        await leave_a_stream(address, guarded.by(token), folder)
    async with asyncio.timeout(20):
        while len(list((guarded.up.run_dir / "streams").glob("door.*.json"))) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # the journal is written twice a second

    def forgetting(token: str, tls: TlsFiles, *more: str) -> argparse.Namespace:
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
        shown = ["--token-file", guarded.by(token).token_file] if token else []
        line = ["door", "--address", address, "--run-dir", str(guarded.up.run_dir), *tls.flags(), *shown]
        return parser.parse_args([*line, *more])

    tls = guarded.trusted.tls
    # Whoever can read the run directory has the secret; the front door asks for a token all the same.
    for token, why in (("", "--token-file"), (STRANGER, "not of 'acme'")):
        with pytest.raises(PermissionRefused, match=why):
            await forget(forgetting(token, tls, "--tenant", "acme"))
    with pytest.raises(Unavailable):
        await forget(forgetting(ADMIN, NO_TLS, "--tenant", "acme"))
    with pytest.raises(InvalidInput, match="acme, other are called door"):
        await forget(forgetting(ADMIN, tls))
    assert all(list(folder.glob("*.tkv")) for folder in folders.values())

    assert await forget(forgetting(ADMIN, tls, "--tenant", "acme")) == 0
    assert capsys.readouterr().out == "stream door is forgotten\n"
    async with asyncio.timeout(20):
        while folders["acme"].exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with tandem.connect(address, security=guarded.by(ADMIN)) as t:
        assert [each.tenant for each in await t.streams() if each.stream_id == "door"] == ["other"]
    assert list(folders["other"].glob("*.tkv"))
    # One's own stream needs no right to administer.
    assert await forget(forgetting(STRANGER, tls)) == 0


async def leave_a_stream(address: str, security: Security, folder: Path) -> None:
    """Something of it is on disk."""
    media = MediaOptions(kind=MediaKind.PICTURES, sample_fps=1000 / PERIOD_MS)
    async with tandem.connect(address, security=security) as t, t.watch(media, stream_id="door") as stream:
        for index in range(8):
            await stream.push_picture(
                picture(index), pts_us=index * PERIOD_MS * 1000, picture_format=PictureFormat.PNG
            )
        await stream.end()
        async with asyncio.timeout(60):
            while not list(folder.glob("*.tkv")):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.05)


def test_unpickling_is_noticed(guarded: Guarded, tmp_path: Path) -> None:
    """What the test above stands on."""
    report = tmp_path / "unpickled"
    code = "import pickle, fractions; pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))"
    environment = {**os.environ, "PYTHON_UNPICKLED": str(report)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert b"nothing here is unpickled" in done.stderr
    assert "unpickled fractions.Fraction" in report.read_text()


def files(guarded: Guarded) -> dict[str, bytes]:
    logs = [guarded.folder / "up.log", *(guarded.up.run_dir / "logs").iterdir()]
    found = {str(path): path.read_bytes() for path in logs}
    for pid in processes(guarded):
        with contextlib.suppress(OSError):
            line, environment = (Path(f"/proc/{pid}/{what}").read_bytes() for what in ("cmdline", "environ"))
            found[f"process {pid}"] = line + environment
    return found


def processes(guarded: Guarded) -> list[int]:
    """All that belong to it, those that decode too."""
    every = {int(each.name): each for each in Path("/proc").glob("[0-9]*")}
    found = []
    for pid, each in every.items():
        with contextlib.suppress(OSError):
            if str(guarded.folder).encode() in (each / "environ").read_bytes():
                found.append(pid)
    return found
