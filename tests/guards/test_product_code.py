"""What must never be in the product's code, and how large its files may be."""

from __future__ import annotations

import ast
import re

from tests.guards.product import ROOT, dotted, source_files, trees

MAX_LINES = 300
UNSAFE = {"torch.load", "yaml.load", "os.system", "os.popen", "subprocess.getoutput", "tempfile.mktemp"}
PICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
COLLECTIVE_OBJECTS = re.compile(r"(all_gather|gather|scatter|broadcast|send|recv)_object(_list)?$")


def test_nothing_is_pickled() -> None:
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            found += [f"{name}: {module}" for module in modules if module.split(".")[0] in PICKLERS]
    assert not found


def test_no_call_runs_foreign_bytes() -> None:
    found = [
        f"{name}:{node.lineno}: {dotted(node.func)}"
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _is_unsafe(node)
    ]
    assert not found


def _is_unsafe(call: ast.Call) -> bool:
    called = dotted(call.func)
    if called in {"eval", "exec"} or COLLECTIVE_OBJECTS.search(called):
        return True
    if called in {
        "torch.load",
        "yaml.load",
        "os.system",
        "os.popen",
        "subprocess.getoutput",
        "tempfile.mktemp",
    }:
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
