"""Shell. Reads the scores of RLKV's heads from a file: JSON, safetensors, or the authors' own TSV."""

from __future__ import annotations

import json
import math
from pathlib import Path

from safetensors import SafetensorError, safe_open

from reasoner_svc.thinking.heads import Scores
from tandem.core.errors import InvalidInput

MAX_BYTES = 16 * 1024 * 1024


def load_head_scores(path: str, layers: int, kv_heads: int) -> Scores:
    """One number from 0 to 1 for each layer and key/value head; higher: it needs everything.

    ``.json``: a list of lists, or an object with that under `scores`. ``.safetensors``: a tensor `scores`
    [layers, kv_heads]. Anything else: a line a layer, numbers with white space between. Raises InvalidInput.
    """
    try:
        rows = _read(Path(path))
        scores = tuple(tuple(float(score) for score in row) for row in rows)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        RecursionError,
        SafetensorError,
    ) as error:
        raise InvalidInput(f"the head scores in {path} cannot be read: {error}") from error
    shape = {len(row) for row in scores}
    if len(scores) != layers or shape != {kv_heads}:
        raise InvalidInput(
            f"{path} has scores of {len(scores)} layers with {sorted(shape)[:4]} heads; "
            f"this model has {layers} layers with {kv_heads} key/value heads"
        )
    if not all(math.isfinite(score) and 0 <= score <= 1 for row in scores for score in row):
        raise InvalidInput(f"{path} has scores that are not between 0 and 1")
    return scores


def _read(path: Path) -> list[list[float]]:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            rows: list[list[float]] = file.get_tensor("scores").float().tolist()
            return rows
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found = json.loads(text)
        rows = found["scores"] if isinstance(found, dict) else found
    else:
        rows = [[float(number) for number in line.split()] for line in text.splitlines() if line.strip()]
    return rows
