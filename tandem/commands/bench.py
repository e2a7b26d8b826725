"""Shell: `tandem bench`: run one benchmark of ``bench/`` and write its figures down."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tandem
from tandem.commands.base import Command, Exit
from tandem.core.errors import InvalidInput, NotFound

_EXAMPLE = """\
tandem bench transfer
tandem bench pipeline --json pipeline.json --quick
tandem bench faults --only encoder-killed"""

_STDOUT = "-"
_COLUMNS = ("metric", "value", "unit", "baseline", "ratio", "n", "spread")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="which benchmark: a module of bench/")
    parser.add_argument(
        "--json",
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="write the results as JSON: to this file, or, without one, to standard output",
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats: to see that it works")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="parts of a benchmark that has parts, with commas between"
    )


def _run(arguments: argparse.Namespace) -> int:
    benchmark = _load(arguments.name)
    rows: list[dict[str, Any]] = benchmark.run(quick=arguments.quick, **_parts(benchmark, arguments))
    told = sys.stderr if arguments.json == _STDOUT else sys.stdout
    print("\n".join(table(rows)), file=told)
    if arguments.json:
        report = {
            "name": arguments.name,
            "commit": commit(),
            "machine": machine(),
            "settings": {
                "quick": arguments.quick,
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                **_settings(benchmark, arguments.quick),
            },
            "results": rows,
        }
        text = json.dumps(report, indent=2) + "\n"
        if arguments.json == _STDOUT:
            print(text, end="")
        else:
            Path(arguments.json).write_text(text)
            print(f"wrote {arguments.json}")
    return Exit.OK if _is_good(benchmark, rows) else Exit.FINDING


def _load(name: str) -> Any:
    folder = Path(importlib.import_module("bench").__path__[0])
    modules = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    names = sorted(_name(path) for path in modules if _is_benchmark(path))
    if name not in names:
        raise NotFound(f"no benchmark {name!r}; there are {', '.join(names) or 'none'}")
    return importlib.import_module(f"bench.{name}")


def _settings(benchmark: Any, quick: bool) -> dict[str, Any]:
    """What a benchmark says of itself: `settings(quick)` where they differ when quick, else `SETTINGS`."""
    if hasattr(benchmark, "settings"):
        return dict(benchmark.settings(quick))
    return dict(getattr(benchmark, "SETTINGS", {}))


def _is_good(benchmark: Any, rows: list[dict[str, Any]]) -> bool:
    """What a benchmark that also checks says of its rows; others only measure."""
    return bool(benchmark.is_good(rows)) if hasattr(benchmark, "is_good") else True


def _parts(benchmark: Any, arguments: argparse.Namespace) -> dict[str, str]:
    if arguments.only and "only" not in inspect.signature(benchmark.run).parameters:
        raise InvalidInput(f"benchmark {arguments.name} has no parts to choose: leave --only out")
    return {"only": arguments.only} if arguments.only else {}


def _name(path: Path) -> str:
    """Of a benchmark: that of its file or, for a package, of its folder."""
    return path.parent.name if path.stem == "__init__" else path.stem


def _is_benchmark(path: Path) -> bool:
    return not _name(path).startswith("_") and "\ndef run(" in path.read_text()


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The rows as aligned lines."""
    from tandem.commands.streams import columns

    return columns([_COLUMNS, *(tuple(_cell(row.get(key)) for key in _COLUMNS) for row in rows)])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def commit() -> str:
    """The git revision of this code, with a mark when it was changed; "unknown" outside of a checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],  # noqa: S607 (git from the user's path)
        cwd=Path(tandem.__file__).resolve().parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or "unknown"


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    description: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        description["torch"] = torch.__version__
        description["torch_threads"] = torch.get_num_threads()
        if torch.cuda.is_available():
            description["gpu"] = torch.cuda.get_device_name()
    return description


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


COMMAND = Command(
    name="bench",
    summary="run one benchmark and write its figures down",
    example=_EXAMPLE,
    add_arguments=_add_arguments,
    run=_run,
)
