"""What must never be in the product's code, and how large its files may be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.guards.product import ROOT, dotted, source_files, trees

MAX_LINES = 300
UNSAFE = {"torch.load", "yaml.load", "os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"}
UNSAFE |= {"yaml.unsafe_load", "yaml.full_load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle"}
PICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
PICKLERS |= {"multiprocessing"}
"""The last sends what it is given as pickles, and reads such."""
IMPORTERS = {"import_module", "__import__"}
COLLECTIVE_OBJECTS = re.compile(r"(all_gather|gather|scatter|broadcast|send|recv)_object(_list)?$")


def test_nothing_is_pickled() -> None:
    assert not [f"{name}: {module}" for name, tree in trees() for module in pickled_by(tree)]


def test_no_call_runs_foreign_bytes() -> None:
    assert not [f"{name}: {called}" for name, tree in trees() for called in unsafe_calls(tree)]


def test_other_words_for_the_same_are_seen() -> None:
    """What the tests above stand on."""
    for line in (
        "import pickle as p",
        "from _pickle import loads",
        "import importlib; importlib.import_module('pickle')",
        "__import__('dill')",
        "from concurrent.futures import ProcessPoolExecutor",
        "import multiprocessing.pool",
    ):
        assert list(pickled_by(ast.parse(line))), line
    for line in (
        "import torch; torch.load('x')",
        "import torch as t; t.load('x')",
        "from torch import load; load('x')",
        "from torch import load as read; read('x')",
        "import torch.jit as j; j.load('x')",
        "from os import system\nsystem('x')",
        "import numpy as np; np.load('x', allow_pickle=True)",
        "eval('x')",
        "import subprocess as s; s.run('x', shell=True)",
    ):
        assert list(unsafe_calls(ast.parse(line))), line
    for line in (
        "import json; json.load(f)",
        "import torch; torch.zeros(1)",
        "from safetensors import safe_open",
    ):
        assert not list(unsafe_calls(ast.parse(line))), line
        assert not list(pickled_by(ast.parse(line))), line


def pickled_by(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            modules += [alias.name for alias in node.names if alias.name == "ProcessPoolExecutor"]
        elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in IMPORTERS:
            modules = [word.value for word in node.args if isinstance(word, ast.Constant) and word.value]
        yield from (m for m in modules if str(m).split(".")[0] in PICKLERS or m == "ProcessPoolExecutor")


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    called_as = _names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = dotted(node.func).partition(".")
            called = called_as.get(first, first) + dot + rest
            if _is_unsafe(called, node):
                yield called


def _names(tree: ast.AST) -> dict[str, str]:
    """What names of a module stand for: `import torch as t`, `from torch import load`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _is_unsafe(called: str, call: ast.Call) -> bool:
    if called in {"eval", "exec", *UNSAFE} or COLLECTIVE_OBJECTS.search(called):
        return True
    if any(word.arg == "shell" for word in call.keywords):
        return True
    allows = [word.value for word in call.keywords if word.arg == "allow_pickle"]
    return any(not (isinstance(value, ast.Constant) and value.value is False) for value in allows)


def test_code_of_a_checkpoint_is_never_run() -> None:
    """Weights and tokenizers come from anywhere: whatever chooses a class by them must not take theirs."""
    loads = [
        (f"{name}:{node.lineno}", {word.arg: word.value for word in node.keywords})
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _chooses_a_class(dotted(node.func))
    ]
    assert len(loads) > 2, "nothing loads checkpoints any more?"
    found = [
        where
        for where, words in loads
        if not isinstance(said := words.get("trust_remote_code"), ast.Constant) or said.value is not False
    ]
    assert not found


def _chooses_a_class(called: str) -> bool:
    of, _, method = called.rpartition(".")
    # A class of transformers' own runs no other's code.
    return method in {"from_pretrained", "from_config"} and not of.startswith("Qwen2_5_VL")


def test_nothing_listens_everywhere_by_default() -> None:
    found = [
        f"{name}:{node.lineno}: {node.value!r}"
        for name, tree in trees()
        for node in set(ast.walk(tree)) - _compared(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"(0\.0\.0\.0|\[::\])(:\d+)?", node.value)
    ]
    assert not found


def _compared(tree: ast.Module) -> set[ast.AST]:
    """What stands in comparisons: there it is refused, not used."""
    return {
        node
        for comparison in ast.walk(tree)
        if isinstance(comparison, ast.Compare)
        for node in ast.walk(comparison)
    }


def test_files_are_short_and_say_what_they_are_for() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in source_files()
        if (lines := len(path.read_text().splitlines())) > MAX_LINES
    }
    assert not long
    silent = [name for name, tree in trees() if ast.get_docstring(tree) is None]
    assert not silent


def test_no_module_is_called_utils() -> None:
    named = [
        path.name
        for path in source_files()
        if re.search(r"(^|_)(utils?|helpers?|misc|common)\.py$", path.name)
    ]
    assert not named
