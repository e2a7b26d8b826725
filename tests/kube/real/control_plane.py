"""A control plane as processes: etcd, API server, controller manager and scheduler of one small cluster.

It is meant for a network namespace of its own (`scripts/kube-check` makes one): addresses of services and
pods are addresses of its loopback device, so that whatever listens at one is reached by it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from orchestrator.backends.kubernetes_api import KubeApi
from tandem.core.errors import TandemError
from tests.kube.servers import write_kubeconfig

NODE_ADDRESS = "10.77.0.1"
PODS = "10.77.{node}.{number}"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
PORT = 443
"""That of the `kubernetes` service too: without a proxy, its address must lead to the server's own port."""


class ControlPlane:
    """The processes, their files in `folder`, and `token`, that of an administrator."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.folder = folder
        self.token = secrets.token_hex(16)
        self.url = f"https://{API_SERVICE}:{PORT}"
        self._binaries = binaries
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def start(self) -> None:
        """Ready for calls when it returns, within a minute."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        key = self.folder / "accounts.key"
        line = ["openssl", "genrsa", "-out", str(key), "2048"]
        await asyncio.to_thread(subprocess.run, line, check=True, capture_output=True)
        etcd = shutil.which("etcd") or str(self._binaries / "etcd")
        self._spawn(
            "etcd", etcd, "--unsafe-no-fsync", f"--data-dir={self.folder / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380", "--log-level=warn",
        )  # fmt: skip
        self._spawn(
            "kube-apiserver", str(self._binaries / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379", f"--secure-port={PORT}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--cert-dir={self.folder / 'certificates'}", f"--service-cluster-ip-range={SERVICES}",
            f"--token-auth-file={self.folder / 'tokens.csv'}", "--authorization-mode=RBAC,Node",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}",
        )  # fmt: skip
        await self._until_ready()
        config = write_kubeconfig(self.folder / "kubeconfig", self.url, self.token)
        self._spawn(
            "kube-controller-manager", str(self._binaries / "kube-controller-manager"),
            f"--kubeconfig={config}", "--leader-elect=false", "--port=0", "--secure-port=10257",
            f"--service-account-private-key-file={key}", "--use-service-account-credentials=false",
            f"--root-ca-file={self.folder / 'certificates/apiserver.crt'}", "--pod-eviction-timeout=10s",
        )  # fmt: skip
        self._spawn(
            "kube-scheduler", str(self._binaries / "kube-scheduler"),
            f"--kubeconfig={config}", "--leader-elect=false", "--port=0", "--secure-port=10259",
        )  # fmt: skip

    async def stop(self) -> None:
        """All of them."""
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes.values()):
            try:
                await asyncio.to_thread(process.wait, 10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def check(self) -> None:
        """Raises AssertionError when one of them ended by itself."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                log = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise AssertionError(f"{name} ended with {process.returncode}:\n{log}")

    def _spawn(self, name: str, *line: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                line, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, env=dict(os.environ)
            )

    async def _until_ready(self) -> None:
        ends = time.monotonic() + 60
        config = write_kubeconfig(self.folder / "kubeconfig-ready", self.url, self.token)
        api = await KubeApi.connect("default", config)
        try:
            while True:
                self.check()
                try:
                    await api.call("GET", "/api/v1/namespaces/default")
                    return
                except TandemError as error:
                    if time.monotonic() > ends:
                        raise AssertionError("the API server is not ready after a minute") from error
                    await asyncio.sleep(0.2)
        finally:
            await api.close()
