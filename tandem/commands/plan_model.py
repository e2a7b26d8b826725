"""Shell: the sizes of a model from its small files: config.json, layout, picture processor, tokenizer.

No weights, no torch. The built-in dummy models are an exception: their configurations are in code with torch.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import struct
from pathlib import Path
from typing import Any

from tandem.core.errors import Incompatible, InvalidInput, NotFound, Unavailable
from tandem.core.model_shape import ModelShape, own_dtype, shape_of

NATIVE_SINK_TOKENS = 15
"""Of the opening of Qwen2.5-VL's own prompt in its own tokenizer; the sink is one small block a stream."""
EMBEDDED_TEXTS = (4, 1), 6
"""Of the embedded model, so that it needs no tokenizer: before and after a picture, and of the sink."""
MAX_HEADER_BYTES = 1 << 20
_PROCESSORS = ("video_preprocessor_config.json", "preprocessor_config.json")
_DUMMY = "dummy:"


def read_shape(
    source: str, *, dtype: str, device: str, max_pixels: int, text_tokens: int | None, revision: str = ""
) -> ModelShape:
    """The shape of `--model` at `--revision`, as the services would have it.

    Raises NotFound, Incompatible, Unavailable, and InvalidInput that says which package or option is missing.
    """
    if source.startswith(_DUMMY):
        config, layout, pictures, folder = *_builtin(source), None
    else:
        folder = _folder(source, revision)
        config, layout = _read(folder / "config.json"), _read(folder / "tandem_layout.json")
        pictures = next((_read(folder / name) for name in _PROCESSORS if (folder / name).is_file()), {})
    unit_text, sink_tokens = _texts(layout, folder, source, text_tokens)
    return shape_of(
        config,
        layout,
        pictures,
        dtype=dtype or ("float32" if device == "cpu" else own_dtype(config)),
        unit_text=unit_text,
        sink_tokens=sink_tokens,
        max_pixels=max_pixels,
        embedding_numbers=_embedding_numbers(folder),
    )


def _builtin(source: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    if importlib.util.find_spec("torch") is None:
        raise InvalidInput(f"{source} needs the extra `model`: pip install 'tandem[model]'")
    from tandem.vlm import dummy

    config, layout, pictures = dummy.builtin(source.removeprefix(_DUMMY))
    return config.to_dict(), layout, pictures


def _folder(source: str, revision: str) -> Path:
    if source == "default":
        return Path(str(importlib.resources.files("tandem") / "shapes" / "model"))
    path = Path(source).expanduser()
    if path.is_file() and path.name == "config.json":
        return path.parent
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise NotFound(f"{path} holds no config.json: it is not a model directory")
        return path
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise NotFound(f"no model at {source!r}: not a directory, a config.json or a hub name (owner/name)")
    return _fetched(source, revision)


def _fetched(name: str, revision: str) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InvalidInput(
            f"fetching {name!r} needs the extra `model` (pip install 'tandem[model]'); "
            "or save its config.json and give the folder"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=["*.json"]))
    except (OSError, ValueError) as error:
        raise Unavailable(f"cannot fetch the configuration of {name!r}: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Incompatible(f"{path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise Incompatible(f"{path} is not an object of JSON")
    return fields


def _texts(
    layout: dict[str, Any], folder: Path | None, source: str, given: int | None
) -> tuple[tuple[int, int], int]:
    """Text tokens before and after a unit's picture, and those of the sink."""
    if given is not None:
        return (given, 0), NATIVE_SINK_TOKENS
    if source == "default":
        return EMBEDDED_TEXTS
    if layout.get("layout", "native") == "native":
        return (0, 0), NATIVE_SINK_TOKENS
    if importlib.util.find_spec("tokenizers") is None:
        raise InvalidInput(
            f"{source} has text in each unit, and only its tokenizer can count it: "
            "pip install tokenizers, or give --text-tokens"
        )
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(_specification(folder, source))
        prefix = layout["unit_prefix"].format(HH="00", MM="00", SS="00")
        texts = (prefix, layout["unit_suffix"], layout["sink"])
        before, after, sink = (len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
    except Exception as error:  # `tokenizers` raises nothing more exact for what it cannot read
        raise Incompatible(
            f"the texts of {source} cannot be counted ({error!r}); give --text-tokens"
        ) from error
    return (before, after), sink


def _specification(folder: Path | None, source: str) -> str:
    if folder is not None:
        return (folder / "tokenizer.json").read_text(encoding="utf-8")
    from tandem.vlm import dummy

    return dummy.dummy_tokenizer(dummy.builtin(source.removeprefix(_DUMMY))[0])


def _embedding_numbers(folder: Path | None) -> int:
    """Of the checkpoint's own embedder, from the head of its file; 0 without one."""
    path = None if folder is None else folder / "retrieval.safetensors"
    if path is None or not path.is_file():
        return 0
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
        return int(head["vision"]["shape"][0])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, struct.error) as error:
        raise Incompatible(f"{path} cannot be read: {error}") from error
