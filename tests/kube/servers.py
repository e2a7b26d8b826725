"""The servers that tests of the API run against: the fake always, a real one where the environment names it.

`TANDEM_KUBE_SERVER` is its URL, `TANDEM_KUBE_TOKEN` a bearer token of an administrator. Everything happens in
a namespace that is made for the run and removed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import PermissionRefused, Unavailable
from tests.kube.server import fake_kube

REAL = os.environ.get("TANDEM_KUBE_SERVER", "")
SERVERS = ("fake", "real") if REAL else ("fake",)
TOKEN = "token-of-the-tests"


def write_kubeconfig(path: Path, url: str, token: str) -> str:
    cluster = {"server": url, "insecure-skip-tls-verify": True}
    text = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "me", "user": {"token": token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "me"}}],
            "current-context": "it",
        }
    )
    path.write_text(text)
    path.chmod(0o600)
    return str(path)


@asynccontextmanager
async def connected(url: str, token: str, folder: Path, namespace: str = "") -> AsyncIterator[KubeApi]:
    """A client in a namespace, which is made and removed unless it is given."""
    config = write_kubeconfig(folder / f"kubeconfig-{secrets.token_hex(3)}", url, token)
    api = await KubeApi.connect(namespace or f"tandem-{secrets.token_hex(4)}", config)
    try:
        if not namespace:
            await api.call("POST", "/api/v1/namespaces", body={"metadata": {"name": api.namespace}})
            await _takes_pods(api)
        yield api
        if not namespace:
            await api.call("DELETE", f"/api/v1/namespaces/{api.namespace}")
    finally:
        await api.close()


async def _takes_pods(api: KubeApi) -> None:
    """A real server first makes a new namespace an account, and until 1.24 a token: no pod before them."""
    dry = {"metadata": {"name": "dry"}, "spec": {"containers": [{"name": "main", "image": "none"}]}}
    async with asyncio.timeout(30):
        while True:
            try:
                await api.call("POST", f"/api/v1/namespaces/{api.namespace}/pods", {"dryRun": "All"}, dry)
                return
            except (Unavailable, PermissionRefused):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def server(kind: str, folder: Path) -> AsyncIterator[KubeApi]:
    """A client of one of `SERVERS`."""
    if kind == "real":
        async with connected(REAL, os.environ.get("TANDEM_KUBE_TOKEN", ""), folder) as api:
            yield api
        return
    async with fake_kube(tokens={TOKEN: "tests"}) as kube, connected(kube.url, TOKEN, folder) as api:
        yield api
