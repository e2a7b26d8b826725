"""The table of the chart's values, made of the comments in values.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

BEGIN, END = "<!-- values: made by scripts/chart-renew -->", "<!-- end of values -->"
_KEY = re.compile(r"( *)([A-Za-z]\w*):(.*)")
_COMMENT = re.compile(r" *# -- (.*)")


@dataclass(frozen=True)
class Described:
    """A value, its default, and what values.yaml says of it."""

    path: tuple[str, ...]
    default: Any
    text: str


def described(text: str) -> Iterator[Described]:
    """Every key of values.yaml below which the chart knows no other; of a map on one line only its own.

    Raises ValueError for a key without a comment, and for a comment without a key.
    """
    whole = yaml.safe_load(text)
    path: list[tuple[int, str]] = []
    words = ""
    for line in text.splitlines():
        if comment := _COMMENT.fullmatch(line):
            if words:
                raise ValueError(f"two comments, one key: {line}")
            words = comment[1]
        elif key := _KEY.fullmatch(line):
            indent, name = len(key[1]), key[2]
            path = [(depth, each) for depth, each in path if depth < indent] + [(indent, name)]
            names = tuple(each for _, each in path)
            value = whole
            for each in names:
                value = value[each]
            is_parent = isinstance(value, dict) and not key[3].strip() and not words
            if words:
                yield Described(names, value, words)
            elif not is_parent and not _is_below_described(names):
                raise ValueError(f"{'.'.join(names)} has no comment")
            words = ""


def _is_below_described(names: tuple[str, ...]) -> bool:
    """The annotations of the Ingress are the one map whose default has keys on lines of their own."""
    return names[:2] == ("ingress", "annotations")


def table(text: str) -> str:
    """Markdown, one row a value."""
    rows = [
        f"| `{'.'.join(each.path)}` | {_shown(each.default)} | {each.text.replace('|', chr(92) + '|')} |"
        for each in described(text)
    ]
    return "\n".join(("| value | default | what |", "|---|---|---|", *rows))


def _shown(default: Any) -> str:
    return f"`{json.dumps(default)}`"


def with_table(readme: str, text: str) -> str:
    """The README with the table as it should be. Raises ValueError without the two marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the README has no place for the table")
    return f"{before}{BEGIN}\n{table(text)}\n{END}{after}"
