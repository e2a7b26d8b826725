"""Orchestrators as processes: the one that leads is stopped by a signal, and wakes when another leads."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

import tandem
from orchestrator.__main__ import LEADS_NO_MORE
from orchestrator.backends.kubernetes_lease import held_from
from tests.kube.release import NAMESPACE, RELEASE, Release, release, until
from tests.kube.servers import TOKEN, write_kubeconfig

pytestmark = pytest.mark.slow


class Processes:
    def __init__(self, found: Release, folder: Path) -> None:
        self.found, self.folder = found, folder
        self.secret = folder / "secret"
        self.secret.write_text("a secret that both of them share")
        self.secret.chmod(0o600)
        self.config = write_kubeconfig(folder / "kubeconfig", found.kube.url, TOKEN)
        self.started: list[asyncio.subprocess.Process] = []

    async def start(
        self, pod: str, listen: str = "127.0.0.1:0", tree: Path | None = None
    ) -> asyncio.subprocess.Process:
        """`tree`: of its code, where that is another release's."""
        line = [sys.executable, "-m", "orchestrator", "--backend", "kubernetes", "--release", RELEASE]
        line += ["--namespace", NAMESPACE, "--kubeconfig", self.config, "--pod-name", pod]
        line += ["--secret-file", str(self.secret), "--run-dir", str(self.folder / pod)]
        line += ["--listen", listen, "--leader-seconds", "3", "--die-with-parent"]
        environment = os.environ | ({"PYTHONPATH": str(tree)} if tree else {})
        process = await asyncio.create_subprocess_exec(
            *line, stdout=asyncio.subprocess.DEVNULL, cwd=tree, env=environment
        )
        self.started.append(process)
        return process

    @property
    def holder(self) -> str:
        items = self.found.kube.store.list(self.found.leases, NAMESPACE)
        return held_from(items[0]).holder if items else ""

    def address(self, pod: str) -> str:
        return (self.folder / pod / "address").read_text().strip()


async def test_a_leader_that_was_stopped_gives_way_when_it_wakes(tmp_path: Path) -> None:
    async with release(tmp_path) as found:
        found.install()
        found.free_lease()
        it = Processes(found, tmp_path)
        try:
            first = await it.start("o-0")
            await until(lambda: it.holder.startswith("o-0/"))
            async with tandem.connect(it.address("o-0")) as t:
                term = (await t.status()).term
                second = await it.start("o-1")
                await until(lambda: (tmp_path / "o-1" / "address").exists())
                os.kill(first.pid, signal.SIGSTOP)
                await until(lambda: it.holder.startswith("o-1/"))
                os.kill(first.pid, signal.SIGCONT)
                async with asyncio.timeout(20):
                    assert await first.wait() == LEADS_NO_MORE
            async with tandem.connect(it.address("o-1")) as t:
                assert (await t.status()).term > term
            again = await it.start("o-0")
            await asyncio.sleep(1.0)
            assert it.holder.startswith("o-1/"), "it stands by"
            second.terminate()
            assert await second.wait() == 0
            await until(lambda: it.holder.startswith("o-0/"))
            again.terminate()
            assert await again.wait() == 0
            await until(lambda: it.holder == "")
        finally:
            for process in it.started:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
