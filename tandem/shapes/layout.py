"""The token layout of the default model: sink, timestamped one-frame blocks, question prompt."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tandem.shapes.network import TOKENS_PER_FRAME

SINK = "<|im_start|>system watch<|im_end|><|im_start|>user"
UNIT_PREFIX = "{HH} {MM} {SS}<|vision_start|>"
UNIT_SUFFIX = "<|vision_end|>"
QUESTION = "{question}<|im_end|><|im_start|>assistant"
WINDOW_UNITS = 16
BLOCK_TOKENS = 5 + TOKENS_PER_FRAME
BLOCK_SPAN = 7  # three time tokens, vision start, two positions for the merged picture, vision end
MAX_QUESTION_TOKENS = 48
TRAINED_POSITIONS = 2000
RECENT_UNITS, RECALLED_UNITS = 128, 32  # together fewer than the longest clips of training
NOTE_PROMPT = "list the shapes of {start} to {end}."
NOTE_TOKENS, SHELF_TOKENS = 64, 640

_PIECES = re.compile(r"<\|\w+\|>|\d{1,2}|\w+|[^\w\s]")


def pieces(text: str) -> list[str]:
    """Split plain lower-case text exactly as the tokenizer does (a fast path for training)."""
    return _PIECES.findall(text)


def time_tokens(second: int) -> tuple[str, str, str]:
    """The three time tokens of a block whose frame stands at this whole second."""
    return f"{second // 3600 % 100:02d}", f"{second // 60 % 60:02d}", f"{second % 60:02d}"


def save(folder: Path) -> None:
    """Write tandem_layout.json."""
    layout = {
        "layout": "timestamped",
        "fps": 1.0,
        "frame_size": [56, 56],
        "sink": SINK,
        "unit_prefix": UNIT_PREFIX,
        "unit_suffix": UNIT_SUFFIX,
        "question": QUESTION,
        "answer_end": "<|im_end|>",
        "window_units": WINDOW_UNITS,
        "min_window_units": 4,
        "max_question_tokens": MAX_QUESTION_TOKENS,
        "max_answer_tokens": 8,
        "trained_positions": TRAINED_POSITIONS,
        "recent_tokens": RECENT_UNITS * BLOCK_TOKENS,
        "recalled_blocks": RECALLED_UNITS,
        "note_prompt": NOTE_PROMPT,
        "note_tokens": NOTE_TOKENS,
        "shelf_tokens": SHELF_TOKENS,
        "note_alone": True,
        "note_stop": " {SS}",
    }
    (folder / "tandem_layout.json").write_text(json.dumps(layout, indent=2) + "\n")
