"""Which backend serves which device: the one table of names."""

from __future__ import annotations

from collections.abc import Callable

from tandem.core.errors import InvalidInput
from tandem.vlm.backends.base import Backend
from tandem.vlm.backends.cpu import CpuFlash
from tandem.vlm.backends.cuda import CudaFlash
from tandem.vlm.backends.merging import Merging
from tandem.vlm.backends.plain import Plain
from tandem.vlm.backends.reference import Reference

BACKENDS: dict[str, Callable[[], Backend]] = {
    "reference": Reference,
    "plain": lambda: Merging(Plain()),
    "cpu": lambda: Merging(CpuFlash()),
    "cuda": lambda: Merging(CudaFlash()),
}


def pick_backend(name: str, device_type: str) -> Backend:
    """The backend called `name`; ``auto`` is the fastest for the device."""
    if name == "auto":
        name = device_type if device_type in BACKENDS else "plain"
    if name not in BACKENDS:
        raise InvalidInput(f"no attention backend {name!r}; there are: auto, {', '.join(BACKENDS)}")
    return BACKENDS[name]()
