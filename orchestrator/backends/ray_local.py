"""Shell: the Ray that `tandem up` starts on this machine, as its child process, when no address is given."""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

from orchestrator.backends.ray_head import NO_RAY
from orchestrator.config import OrchestratorConfig
from tandem.core.errors import InvalidInput, Unavailable

START_TIMEOUT_S = 90.0
"""Five seconds on an idle machine."""
STOP_TIMEOUT_S = 10.0
_SLICE_S = 0.1
_RECONNECT_S = 10
"""A driver of a Ray that is gone for so long ends; Ray's own default is a minute."""


class LocalRay:
    """A Ray of one node; started when first needed, and again when it has died."""

    def __init__(self, config: OrchestratorConfig, say: Callable[[str], None]) -> None:
        self._say = say
        # A laptop with fewer cores than services should run them all the same, as the local backend does.
        wanted = (config.encoders + config.reasoners) * config.ray.cpus
        self._cpus = max(os.cpu_count() or 1, -int(-wanted // 1))
        self._insecure = config.ray.insecure
        self._token = secrets.token_hex(32)
        self._process: subprocess.Popen[str] | None = None
        self._address = ""

    @property
    def environment(self) -> Mapping[str, str]:
        """For this process, the head and the orchestrator: a token that nobody else has."""
        mode = os.environ.get("RAY_AUTH_MODE", "token") if self._insecure else "token"
        return os.environ | {
            "RAY_AUTH_MODE": mode,
            "RAY_AUTH_TOKEN": self._token,
            "RAY_gcs_rpc_server_reconnect_timeout_s": str(_RECONNECT_S),
        }

    def address(self, is_stopping: Callable[[], bool]) -> str:
        """Where its GCS listens; it is started if it does not run. Empty when `is_stopping` said so.

        Raises:
            InvalidInput: Ray is not installed, or too old.
            Unavailable: it did not start.
        """
        if self._process is not None and not _has_ended(self._process):
            return self._address
        self.stop()
        self._say("starting a Ray on this machine …")
        line = [sys.executable, "-m", "orchestrator.backends.ray_head", "--cpus", str(self._cpus)]
        self._process = subprocess.Popen(  # noqa: S603
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            env=dict(self.environment),
            start_new_session=True,
        )
        self._address = self._read_address(self._process, is_stopping)
        return self._address

    def _read_address(self, process: subprocess.Popen[str], is_stopping: Callable[[], bool]) -> str:
        assert process.stdout is not None
        until_s = time.monotonic() + START_TIMEOUT_S
        while not is_stopping():
            readable, _, _ = select.select([process.stdout], [], [], _SLICE_S)
            if readable:
                line = process.stdout.readline().strip()
                if line.startswith(NO_RAY):
                    raise InvalidInput(line.removeprefix(NO_RAY))
                if line:
                    return line
                self.stop()
                raise Unavailable(f"Ray did not start (status {process.returncode})")
            if time.monotonic() > until_s:
                raise Unavailable(f"Ray did not start within {START_TIMEOUT_S:g} s")
        return ""

    def stop(self) -> None:
        """End it, and with it all that runs on it."""
        process, self._process = self._process, None
        if process is None:
            return
        os.kill(process.pid, signal.SIGTERM)  # not `terminate()`, which waits for one that has ended
        until_s = time.monotonic() + STOP_TIMEOUT_S
        while not _has_ended(process) and time.monotonic() < until_s:
            time.sleep(_SLICE_S)
        # What a killed head leaves: Ray's agents outlive their raylet. The group is its own (a new session),
        # and its number nobody else's as long as the head is not waited for.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _has_ended(process: subprocess.Popen[str]) -> bool:
    """True once it has; it stays to be waited for."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
