"""Whole renders of some values files, kept as text: a change of a template shows in what it changes."""

from __future__ import annotations

import re
from pathlib import Path

from tests.chart.rendering import CHART, MIDDLE, read, render_texts

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("default", "secure", "gpu", "colocated")


def golden(name: str) -> str:
    """All that a values file renders, by template; the made secret is masked."""
    texts = render_texts(read(CHART / f"ci/{name}-values.yaml"), MIDDLE)
    parts = []
    for path in sorted(texts):
        lines = [line.rstrip() for line in texts[path].splitlines()]
        body = "\n".join(line for line in lines if line)
        if body and not path.endswith(".tpl"):
            parts.append(f"# {path}\n{body}\n")
    return re.sub(r'^  secret: "\S+"$', '  secret: "made at install"', "\n".join(parts), flags=re.MULTILINE)


def file_of(name: str) -> Path:
    """Where it is kept."""
    return GOLDEN / f"{name}.yaml"
