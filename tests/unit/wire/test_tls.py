"""TLS of servers and channels: who gets in, what is refused at the start, and renewal while it runs."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import _async as health_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.client import Security, connect
from tandem.core.errors import InvalidInput, Unavailable
from tandem.core.tls_files import NO_TLS, TlsFiles
from tandem.wire.calls import CallingChannel
from tandem.wire.channel import bind, make_channel, make_server
from tests.certificates import Ca


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_ca(tmp_path_factory: pytest.TempPathFactory) -> Ca:
    return Ca(tmp_path_factory.mktemp("other"), "other")


@asynccontextmanager
async def serving(tls: TlsFiles) -> AsyncIterator[str]:
    server = make_server()
    health_pb2_grpc.add_HealthServicer_to_server(health_aio.HealthServicer(), server)
    address = bind(server, "127.0.0.1:0", tls)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


async def ask(channel: grpc.aio.Channel | CallingChannel) -> str:
    """ "ok", or the status that the call ended with."""
    try:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "ok"


async def reach(address: str, tls: TlsFiles) -> str:
    async with make_channel(address, tls) as channel:
        return await ask(channel)


async def test_only_who_shows_a_certificate_of_the_ca_is_let_in(ca: Ca, other_ca: Ca) -> None:
    server, client = ca.issue("server"), ca.issue("client")
    stranger = other_ca.issue("stranger")
    async with serving(server) as address:
        assert await reach(address, client) == "ok"
        assert await reach(address, replace(client, cert="", key="")) == "UNAVAILABLE"
        assert await reach(address, replace(stranger, ca=client.ca)) == "UNAVAILABLE"
        assert await reach(address, stranger) == "UNAVAILABLE", "the server's certificate is not of its CA"
        assert await reach(address, NO_TLS) == "UNAVAILABLE", "plain text"


async def test_any_caller_needs_no_certificate_and_still_checks_the_server(ca: Ca, other_ca: Ca) -> None:
    server = replace(ca.issue("open"), any_caller=True)
    async with serving(server) as address:
        assert await reach(address, TlsFiles(ca=server.ca)) == "ok"
        assert await reach(address, TlsFiles(ca=str(other_ca.file))) == "UNAVAILABLE"


async def test_one_shared_certificate_needs_no_ca(ca: Ca) -> None:
    shared = replace(ca.issue("shared"), ca="")
    async with serving(shared) as address:
        assert await reach(address, shared) == "ok"


async def test_a_name_stands_for_the_address(ca: Ca) -> None:
    server = ca.issue("named", at="DNS:tandem.example")
    async with serving(server) as address:
        assert await reach(address, server) == "UNAVAILABLE"
        assert await reach(address, replace(server, name="tandem.example")) == "ok"


async def test_certificates_are_renewed_while_it_runs(tmp_path: Path) -> None:
    first, second = Ca(tmp_path / "first"), Ca(tmp_path / "second")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(first.file.read_bytes())
    server = replace(first.issue("server"), ca=str(trusted))
    client = replace(first.issue("client"), ca=str(trusted))
    old = replace(client, ca=str(first.file))
    async with (
        serving(server) as address,
        CallingChannel(address, client) as channel,
        CallingChannel(address, client) as lost,
    ):
        assert await ask(channel) == "ok"
        trusted.write_bytes(second.file.read_bytes())
        second.issue("server", into=Path(server.cert).with_suffix(""))
        second.issue("client", into=Path(client.cert).with_suffix(""))
        assert await ask(channel) == "ok", "the channel that is open goes on with what is new"
        assert await ask(lost) == "ok", "one that must connect anew does so with what is new"
        assert await reach(address, client) == "ok"
        assert await reach(address, replace(old, cert="", key="")) == "UNAVAILABLE", "the old CA is over"


async def test_a_certificate_that_does_not_fit_its_key_is_not_taken(tmp_path: Path) -> None:
    ca = Ca(tmp_path)
    server, other = ca.issue("server"), ca.issue("other")
    async with serving(server) as address:
        shutil.copyfile(other.cert, server.cert)
        assert await reach(address, other) == "ok", "the former pair stays"
        shutil.copyfile(other.key, server.key)
        assert await reach(address, other) == "ok", "and the new one is taken once it is whole"


@pytest.mark.parametrize("broken", ["cert", "key", "ca"])
async def test_files_that_make_no_tls_are_told_by_name(ca: Ca, tmp_path: Path, broken: str) -> None:
    good = ca.issue(f"broken-{broken}")
    for content in (
        None,
        b"",
        b"not a certificate",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ):
        path = tmp_path / "broken"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        files = replace(good, **{broken: str(path)})
        with pytest.raises(InvalidInput, match=str(path)):
            bind(make_server(), "127.0.0.1:0", files)
        with pytest.raises(InvalidInput, match=str(path)):
            make_channel("127.0.0.1:1", files)


def test_settings_that_cannot_work_are_told() -> None:
    assert "pair" in TlsFiles(cert="a").problems()[0]
    assert "--tls-any-caller" in TlsFiles(cert="a", key="b", any_caller=True).problems()[0]
    assert "--tls-name" in TlsFiles(name="x").problems()[0]
    assert not TlsFiles(cert="a", key="b", ca="c", name="x", any_caller=True).problems()
    assert TlsFiles(cert="a", key="b", ca="c", any_caller=True).flags() == [
        "--tls-cert",
        "a",
        "--tls-key",
        "b",
        "--tls-ca",
        "c",
    ]


@pytest.mark.parametrize(
    ("shown", "told"),
    [("nothing", "--tls-ca"), ("no certificate", "--tls-cert"), ("another CA", "--tls-name")],
)
async def test_a_client_is_told_what_is_missing(ca: Ca, other_ca: Ca, shown: str, told: str) -> None:
    server = ca.issue("told")
    tls = {"nothing": NO_TLS, "no certificate": TlsFiles(ca=server.ca), "another CA": other_ca.issue("else")}
    async with serving(server) as address, connect(address, security=Security(tls=tls[shown])) as client:
        with pytest.raises(Unavailable, match=told):
            await client.status()
