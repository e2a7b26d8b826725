"""The fake API server, and a real one where `TANDEM_KUBE_SERVER` names it, do what one table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import PermissionRefused, Unavailable
from tests.kube.operations import TABLE, Row
from tests.kube.server import fake_kube
from tests.kube.servers import REAL, SERVERS, TOKEN, connected, server


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_what_the_table_says(kind: str, row: Row, tmp_path: Path) -> None:
    async with server(kind, tmp_path) as api:
        minor = int((await api.call("GET", "/version"))["minor"].rstrip("+"))
        if minor < row.since:
            pytest.skip(f"done since Kubernetes 1.{row.since}, this is 1.{minor}")
        assert await row.run(api) == row.expected


@pytest.mark.parametrize("kind", SERVERS)
async def test_a_wrong_token_is_refused(kind: str, tmp_path: Path) -> None:
    async with fake_kube(tokens={TOKEN: "tests"}) as kube:
        url = REAL if kind == "real" else kube.url
        async with connected(url, "not-the-token", tmp_path, "default") as api:
            with pytest.raises(PermissionRefused):
                await api.list_pods("a=b")


async def test_nobody_there(tmp_path: Path) -> None:
    async with connected("http://127.0.0.1:9", TOKEN, tmp_path, "default") as api:
        with pytest.raises(Unavailable, match="cannot reach the Kubernetes API"):
            await api.list_pods("a=b")


async def test_without_any_configuration_it_says_what_is_missing() -> None:
    from tandem.core.errors import InvalidInput

    with pytest.raises(InvalidInput, match="service account"):
        await KubeApi.connect("default")
    with pytest.raises(InvalidInput, match="--kubeconfig /no/such/file"):
        await KubeApi.connect("default", "/no/such/file")
