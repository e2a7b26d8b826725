"""Shell: loads the packages of the ``media`` extra, or says how to get them."""

from __future__ import annotations

import importlib
from typing import Any

from tandem.core.errors import Unavailable


def need(module: str) -> Any:
    """The module, imported now. Raises `Unavailable` that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", maxsplit=1)[0]
        raise Unavailable(
            f"reading video needs the package {package!r}: pip install 'tandem[media]'"
        ) from error
