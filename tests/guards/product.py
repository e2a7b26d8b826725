"""The product's own source files, for the guards that read them."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("tandem", "kv_transfer", "encoder_svc", "reasoner_svc", "orchestrator", "bench")


def source_files() -> Iterator[Path]:
    """Every Python file of the product, generated ones left out."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "gen" not in path.relative_to(ROOT).parts:
                yield path


@functools.cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    """Name and syntax tree of each."""
    return tuple((str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in source_files())


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of an attribute chain; ``?.c`` of an attribute of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return "?"
