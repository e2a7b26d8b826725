"""A Ray of several nodes on this machine, and how one of them is lost."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

SERVICES_A_NODE = 2
_SPARE = {"include_log_monitor": False}
"""Python processes of Ray's own that nothing here needs: they take a core for seconds."""


class RayNodes:
    """A head that runs nothing, and nodes with room for two services each."""

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        # A lost node is noticed in seconds; by Ray's own settings it takes fifteen.
        quick = {
            "health_check_initial_delay_ms": 1000,
            "health_check_period_ms": 500,
            "health_check_failure_threshold": 4,
            "health_check_timeout_ms": 1000,
        }
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "no_monitor": True,
            **_SPARE,
            "_system_config": quick,
        }
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self.address: str = self._cluster.address
        self.nodes: list[Any] = []
        self._count = count
        self.restore()

    def restore(self) -> None:
        """Another node for each that was lost."""
        while len(self.nodes) < self._count:
            self.nodes.append(self._cluster.add_node(wait=False, num_cpus=SERVICES_A_NODE, **_SPARE))
        self._cluster.wait_for_nodes()

    def of(self, pid: int) -> Any:
        """The node below whose raylet a process runs."""
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in self.nodes}
        while pid not in raylets:
            pid = parent(pid)
            assert pid > 1, "not of any node"
        return raylets[pid]

    def lose(self, node: Any) -> list[int]:
        """As if its power went: everything on it at once. Returns the pids."""
        raylet = node.all_processes["raylet"][0].process.pid
        pids = [raylet, *descendants(raylet)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)
        return pids

    def shutdown(self) -> None:
        self._cluster.shutdown()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    direct = [int(p) for task in _tasks(pid) for p in (task / "children").read_text().split()]
    return direct + [below for child in direct for below in descendants(child)]


def _tasks(pid: int) -> list[Path]:
    """Children belong to the thread that forked them."""
    return list(Path(f"/proc/{pid}/task").iterdir())


def is_gone(pid: int, within_s: float) -> bool:
    """True when the process ends in time; a zombie has ended."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False
