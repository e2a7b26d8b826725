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
VOLATILE_KEYS = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation", "transformers_version", "use_cache"}
    | {"dtype", "torch_dtype"}
)
"""Keys of a config.json that say who wrote it or how it is run, not what it computes. The element type is a
fact of its own: what a model runs in, not what it was saved in."""


def digest_files(paths: list[Path]) -> str:
    """Digest of weight files' names and bytes: equal weights under equal names are equal."""
    digest = xxhash.xxh3_128()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def lasting(config: Any) -> Any:
    """A config.json without its volatile keys, at any depth."""
    if isinstance(config, Mapping):
        return {key: lasting(value) for key, value in config.items() if key not in VOLATILE_KEYS}
    return [lasting(value) for value in config] if isinstance(config, list) else config


def digest_tokenizer(specification: Mapping[str, Any]) -> str:
    """Digest of a tokenizer.json's vocabulary, merges and added tokens, however the file is written.

    How text is cut before that is not part of it: the ids of the texts that are in blocks are facts of
    their own.
    """
    model = specification["model"]
    merges = [pair.split(" ") if isinstance(pair, str) else list(pair) for pair in model.get("merges") or ()]
    added = [[token["id"], token["content"]] for token in specification.get("added_tokens", ())]
    text = json.dumps([model.get("type"), model.get("vocab"), merges, sorted(added)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(facts: Mapping[str, Any]) -> str:
    """32 hex digits over JSON-able facts."""
    text = json.dumps({**facts, "layout_version": LAYOUT_VERSION}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]
