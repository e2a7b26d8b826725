"""Shell: says how to get the packages of the ``load`` extra where one is missing."""

from __future__ import annotations

import importlib.util

from tandem.core.errors import Unavailable

PACKAGES = ("numpy", "av", "PIL", "hdrh", "matplotlib")


def need_extra(packages: tuple[str, ...] = PACKAGES) -> None:
    """Raises `Unavailable` that names the extra when one of its packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(
            f"generating load needs the packages {', '.join(missing)}: pip install 'tandem[load]'"
        )
