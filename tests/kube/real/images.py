"""What containers run in: this machine's own files, or images that `scripts/image-build` built."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """The root file system that a container has a layer over, and what an image says of its environment."""

    root: str
    env: dict[str, str]
    open: tuple[str, ...] = ()
    """Folders that another account may have closed here, and an image's user must be able to enter."""


def image(name: str) -> Image:
    """By the name that a pod gives it. Where `TANDEM_KUBE_IMAGES` names no folder all are this machine."""
    folder = os.environ.get("TANDEM_KUBE_IMAGES", "")
    if not folder:
        return _this_machine()
    short = name.rpartition("/")[2].partition("@")[0].partition(":")[0]
    root = Path(folder) / short
    assert root.is_dir(), f"no image {short} in {folder}: run scripts/image-build"
    words: list[str] = json.loads((Path(folder) / f"{short}.env.json").read_text())
    return Image(str(root.resolve()), dict(word.split("=", 1) for word in words))


def _this_machine() -> Image:
    import tandem

    places = (Path(sys.executable).parent, Path(sys.base_prefix), Path(tandem.__file__).parent)
    found = {str(parent) for place in places for parent in (place, *place.parents)}
    closed = sorted(each for each in found if (os.stat(each).st_mode & 0o055) != 0o055)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return Image("/", {"PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}, tuple(closed))
