"""Pure ring: one name for everything that makes KV incompatible. Reads weight files, knows no model code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

LAYOUT_VERSION = 1
"""Raise when the meaning of a block's bytes changes."""
CHUNK_BYTES = 1 << 22


def digest_files(paths: list[Path]) -> str:
    """Digest of weight files' names and bytes: equal weights under equal names are equal."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def fingerprint(facts: Mapping[str, Any]) -> str:
    """32 hex digits over JSON-able facts."""
    text = json.dumps({**facts, "layout_version": LAYOUT_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
