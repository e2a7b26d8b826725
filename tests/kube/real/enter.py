"""Becomes one container: `python -I enter.py SPEC`, run in mount and process namespaces of its own.

The image is a folder, or this machine: over its files lies a layer in memory that ends with the container.
Volumes lie where the pod wants them, the root may be read only, and the command runs as the user that the
pod names, without capabilities, as process 1. The network is the cluster's; nothing outside is changed.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
NO_NEW_PRIVILEGES = 38


def mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def main(path: str) -> None:
    spec: dict[str, Any] = json.loads(Path(path).read_text())
    if spec["cgroup"]:
        (Path(spec["cgroup"]) / "cgroup.procs").write_text("0")
    root = layered(Path(spec["scratch"]), spec["root"], spec["open"])
    devices(root)
    mount("-t", "proc", "proc", root / "proc")
    mount("--rbind", "-o", "ro", "/sys", root / "sys")
    for source, target, read_only in spec["mounts"]:
        put(root, Path(source), target, read_only)
    if spec["read_only_root"]:
        mount("-o", "remount,bind,ro", root, root)
    os.chroot(root)
    os.chdir("/")
    os.setgroups(spec["groups"])
    os.setgid(spec["gid"])
    os.setuid(spec["uid"])
    if ctypes.CDLL(None, use_errno=True).prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    os.umask(0o022)
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])


def layered(scratch: Path, image: str, opened: list[str]) -> Path:
    """An image's files under a layer of its own. `opened`: folders that everyone may enter in it."""
    mount("-t", "tmpfs", "-o", "mode=755,size=256m", "layer", scratch)
    for name in ("upper", "work", "root"):
        (scratch / name).mkdir()
    layers = f"lowerdir={image},upperdir={scratch / 'upper'},workdir={scratch / 'work'}"
    mount("-t", "overlay", "-o", layers, "overlay", scratch / "root")
    for folder in opened:
        inside = scratch / "root" / folder.lstrip("/")
        inside.chmod(inside.stat().st_mode | 0o055)
    return scratch / "root"


def devices(root: Path) -> None:
    mount("-t", "tmpfs", "-o", "mode=755,size=64k", "dev", root / "dev")
    for name in DEVICES:
        put(root, Path("/dev") / name, f"/dev/{name}", False)
    (root / "dev/shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "shm", root / "dev/shm")
    (root / "dev/fd").symlink_to("/proc/self/fd")


def inside(root: Path, target: str) -> Path:
    """Where a path of the container is: links are followed as the container would, never out of its root."""
    there = root
    for part in Path(target).parts[1:]:
        step = there / part
        if step.is_symlink():
            link = str(step.readlink())
            step = inside(root, link if link.startswith("/") else f"/{there.relative_to(root)}/{link}")
        there = step
    return there


def put(root: Path, source: Path, target: str, read_only: bool) -> None:
    there = inside(root, target)
    if source.is_dir():
        there.mkdir(parents=True, exist_ok=True)
    else:
        there.parent.mkdir(parents=True, exist_ok=True)
        there.touch()
    mount("--bind", source, there)
    if read_only:
        mount("-o", "remount,bind,ro", there, there)


if __name__ == "__main__":
    main(sys.argv[1])
