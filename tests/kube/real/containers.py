"""One container as processes of this machine, in namespaces of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ENTER = Path(__file__).with_name("enter.py")
MEMORY = (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes")
"""Control groups of version 1. Where they are not, nothing limits a container's memory."""


@dataclass(frozen=True)
class Spec:
    """What `enter.py` is told."""

    argv: Sequence[str]
    env: dict[str, str]
    mounts: Sequence[tuple[str, str, bool]]
    """(source, target, whether it is read only)."""
    uid: int
    gid: int
    groups: Sequence[int]
    read_only_root: bool
    root: str
    """The file system under the container's own layer."""
    open: Sequence[str]
    scratch: str = ""
    cgroup: str = ""


class Container:
    """Started when it is made; `wait` for its end."""

    def __init__(self, process: asyncio.subprocess.Process, cgroup: Path | None) -> None:
        self._process, self._cgroup = process, cgroup

    @classmethod
    async def start(cls, spec: Spec, folder: Path, memory_bytes: int) -> Container:
        """`folder` is its own; `log` in it is what it says. `memory_bytes`: 0 for no limit."""
        scratch = folder / "scratch"
        scratch.mkdir(parents=True, exist_ok=True)
        cgroup = _memory_group(folder, memory_bytes)
        told = {**asdict(spec), "scratch": str(scratch), "cgroup": str(cgroup or "")}
        (folder / "spec.json").write_text(json.dumps(told))
        with (folder / "log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
                sys.executable, "-I", str(ENTER), str(folder / "spec.json"),
                stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={"PATH": os.environ.get("PATH", "")},
            )  # fmt: skip
        return cls(process, cgroup)

    @property
    def first(self) -> int | None:
        """Process 1 of the container, by its number outside; None when it has ended."""
        own = self._process.pid
        try:
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        except OSError:
            return None
        return int(children[0]) if children else None

    async def wait(self) -> int:
        """The exit status; negative for a signal."""
        status = await self._process.wait()
        if self._cgroup and self._cgroup.exists():
            with contextlib.suppress(OSError):  # something of it may still be ending
                self._cgroup.rmdir()
        return status

    def kill(self, how: int = signal.SIGKILL) -> None:
        """A signal to process 1; with SIGKILL all that it started ends with it."""
        if (first := self.first) is not None:
            os.kill(first, how)

    async def stop(self, grace_s: float) -> int:
        """SIGTERM, and SIGKILL after so long."""
        self.kill(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()


def _memory_group(folder: Path, limit: int) -> Path | None:
    root, file = MEMORY
    if not limit or not os.access(root, os.W_OK) or not (root / file).exists():
        return None
    group = root / "tandem-kube" / "-".join(folder.parts[-3:])
    group.mkdir(parents=True, exist_ok=True)
    (group / file).write_text(str(limit))
    return group
