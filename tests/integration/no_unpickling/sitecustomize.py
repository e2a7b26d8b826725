"""Forbids unpickling in a process: Python imports this at start where it is on the path.

What a pickle can do begins with finding a class or function by its name. A process that tries it, whatever
library does it and wherever the bytes come from, fails there, and writes into ``$PYTHON_UNPICKLED`` what it
wanted; each process that is watched writes that it is. Only tests put this directory on a path.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

_REPORT = os.environ.get("PYTHON_UNPICKLED", "")


def _write(line: str) -> None:
    handle = os.open(_REPORT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, f"{line}\n".encode())
    os.close(handle)


def _forbid(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "pickle.find_class":
        where = " < ".join(
            f"{f.name} ({f.filename}:{f.lineno})" for f in reversed(traceback.extract_stack()[-6:-1])
        )
        _write(f"unpickled {'.'.join(map(str, arguments))} in {' '.join(sys.orig_argv)}: {where}")
        raise RuntimeError(f"nothing here is unpickled, and this was: {arguments}")


if _REPORT:
    _write(f"watched {' '.join(sys.orig_argv)}")
    sys.addaudithook(_forbid)
