"""Other ways to install it at the same real API server: with TLS and tokens, and in pairs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import tandem
from tandem.client import MediaKind, Security
from tandem.core.errors import PermissionRefused
from tests.certificates import Ca
from tests.kube.real.cluster import NAMESPACE, Cluster, cluster

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif("TANDEM_KUBE_BIN" not in os.environ, reason="run by scripts/kube-check"),
]
THREADS = {"encoder": {"threads": 1}, "reasoner": {"threads": 1}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found


async def test_with_tls_and_tokens(real: Cluster, tmp_path: Path) -> None:
    ca = Ca(tmp_path / "ca")
    names = {
        "orchestrator": [f"safe-orchestrator.{NAMESPACE}.svc", f"*.safe-orchestrator-pods.{NAMESPACE}.svc"],
        "encoder": [f"*.safe-encoder.{NAMESPACE}.svc"],
        "reasoner": [f"*.safe-reasoner.{NAMESPACE}.svc"],
        "client": ["client"],
    }
    files = {role: ca.issue(role, at=",".join(f"DNS:{each}" for each in own)) for role, own in names.items()}
    for role, own in files.items():
        pem = {"tls_crt": read(own.cert), "tls_key": read(own.key), "ca_crt": read(own.ca)}
        await real.put_secret(f"{role}-tls", **pem)
    line = [sys.executable, "-m", "tandem.cli", "token", "--out", str(tmp_path / "token")]
    lines = subprocess.run(line, capture_output=True, check=True).stdout  # noqa: ASYNC221 - nothing else runs
    await real.put_secret("who", tokens_toml=lines)
    await real.put_secret("test-token", token=(tmp_path / "token").read_bytes())
    values: dict[str, Any] = {
        **THREADS,
        "tls": {"mode": "existingSecret", "existingSecrets": {role: f"{role}-tls" for role in names}},
        "tokens": {"existingSecret": "who", "testSecret": "test-token"},
    }
    await real.helm("install", real.chart, "safe", values)
    await real.ready("safe-orchestrator-0", "safe-encoder-0", "safe-reasoner-0")
    await real.helm("test", "safe", timeout=120)

    async def watched(security: Security) -> None:
        async with (
            tandem.connect(await real.door("safe"), security=security) as client,
            client.watch(MediaKind.PICTURES),
        ):
            pass

    # From outside of the cluster: the address is no name that the certificate has.
    tls = replace(files["client"], name=names["orchestrator"][0])
    await watched(Security(tls=tls, token_file=str(tmp_path / "token")))
    with pytest.raises(PermissionRefused, match="token"):
        await watched(Security(tls=tls))
    await real.helm("uninstall", "safe")
    await real.until(lambda pods: not pods, 120)


async def test_pairs_meet_in_shared_memory(real: Cluster) -> None:
    await real.helm("install", real.chart, "pairs", {**THREADS, "insecure": True, "mode": "colocated"})
    await real.ready("pairs-orchestrator-0", "pairs-pair-0")
    await real.helm("test", "pairs", timeout=120)
    assert "forward by shm, reverse by shm" in real.pod("pairs-pair-0").log("reasoner")
    await real.helm("uninstall", "pairs")
    await real.until(lambda pods: not pods, 120)


def read(path: str) -> bytes:
    """A file of the test's own."""
    return Path(path).read_bytes()
