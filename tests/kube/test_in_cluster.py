"""As in a pod: over TLS, with the service account's token, which is read again when it was renewed."""

from __future__ import annotations

import datetime
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web
from kubernetes.aio.config import incluster_config

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import PermissionRefused, Unavailable
from tests.kube.server import FakeKube

OPENSSL = shutil.which("openssl")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Of 127.0.0.1, and signed by itself."""
    certificate, private = folder / "ca.crt", folder / "key.pem"
    line = [OPENSSL, "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    line += ["-subj", "/CN=fake", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    line += ["-keyout", str(private), "-out", str(certificate)]
    subprocess.run([word for word in line if word], check=True, capture_output=True)
    return certificate, private


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here to make a certificate with")
async def test_the_service_account_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, private = make_certificate(tmp_path)
    kube = FakeKube(tokens={"first": "pod"})
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", kube.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, private)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(runner.addresses[0][1]))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    api = await KubeApi.connect("default")
    try:
        assert (await api.list_pods("a=b"))[0] == []
        kube.tokens = {"second": "pod"}
        with pytest.raises(PermissionRefused):
            await api.list_pods("a=b")
        token.write_text("second")
        later = datetime.datetime.now() + datetime.timedelta(minutes=2)

        class Later(datetime.datetime):
            @classmethod
            def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
                return later

        monkeypatch.setattr(incluster_config.datetime, "datetime", Later)
        assert (await api.list_pods("a=b"))[0] == []
    finally:
        await api.close()
        await runner.cleanup()


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here to make a certificate with")
async def test_another_authority_of_the_cluster_is_trusted_once_its_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise an orchestrator would never hear of the API again until somebody starts it anew."""
    kube = FakeKube(tokens={"first": "pod"})
    token, trusted = tmp_path / "token", tmp_path / "trusted.crt"
    token.write_text("first")

    async def serve(name: str, port: int) -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", kube.handle)
        runner = web.AppRunner(app, shutdown_timeout=0.2)
        await runner.setup()
        (tmp_path / name).mkdir()
        certificate, private = make_certificate(tmp_path / name)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, private)
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
        return runner

    former = await serve("former", 0)
    port = former.addresses[0][1]
    shutil.copy(tmp_path / "former/ca.crt", trusted)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(trusted))
    api = await KubeApi.connect("default")
    try:
        assert (await api.list_pods("a=b"))[0] == []
        await former.cleanup()
        later = await serve("next", port)
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot reach"):
                await api.list_pods("a=b")
        shutil.copy(tmp_path / "next/ca.crt", trusted)
        with pytest.raises(Unavailable):
            await api.list_pods("a=b")
        assert (await api.list_pods("a=b"))[0] == []
    finally:
        await api.close()
        await later.cleanup()
