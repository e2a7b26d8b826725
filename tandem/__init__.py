"""Tandem watches live video and answers questions about it while it watches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem.client import connect as connect

__version__ = "0.2.0"

__all__ = ["__version__", "connect"]


def __getattr__(name: str) -> Any:
    """Load the client when it is first asked for: importing a part of the package stays light."""
    if name == "connect":
        # By name: parts below the client import this package for its version, and must not depend on it.
        return importlib.import_module("tandem.client").connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
