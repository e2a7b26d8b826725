"""Shell. ``tandem up``: everything on this machine, or on a Ray, in the foreground, until Ctrl-C.

This process does one thing: it keeps one orchestrator running. The orchestrator starts the services; when it
dies they die with it, and the next one starts them anew. One that is frozen is ended. With ``--backend ray``
they outlive it, and the next one finds them; without an address the Ray is started here, too.
"""

from __future__ import annotations

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType

from orchestrator.arguments import add_arguments, to_config
from orchestrator.backends.ray_local import LocalRay
from orchestrator.config import OrchestratorConfig
from orchestrator.pulse import PERIOD_S, Pulse
from orchestrator.rundir import read_address
from tandem.core.errors import InvalidInput, TandemError, Unavailable
from tandem.core.lifetime import environment_of_child
from tandem.core.logs import make_formatter, say

EXAMPLE = """example:
  tandem up
  tandem up --listen 127.0.0.1:7500 --encoders 2 --device cuda:0
  tandem up --backend ray --encoders 2 --reasoners 2 --pack-pairs
"""

STOP_GRACE_S = 15.0
"""For the orchestrator to stop the services and itself."""
_BACKOFF_MAX_S = 10.0
_SLEEP_SLICE_S = 0.1
_HEALTHY_S = 30.0
"""An orchestrator that ran this long had no trouble starting."""
_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGINT or SIGTERM; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(arguments)
    try:
        config = to_config(args)
        starts = config.backend != "kubernetes"
        if starts and (config.encoders < 1 or config.reasoners < 1):
            raise InvalidInput("`tandem up` needs at least one encoder and one reasoner")
    except InvalidInput as error:
        for line in error.message.splitlines():
            say(f"tandem up: {line}", make_formatter(args.log_format, "up"), level=logging.ERROR)
        return _USAGE
    return _Keeper(config, arguments).run()


class _Keeper:
    """Keeps the orchestrator running."""

    def __init__(self, config: OrchestratorConfig, arguments: list[str]) -> None:
        self._config = config
        self._arguments = arguments
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._say = partial(say, formatter=make_formatter(config.log_format, "up"))
        is_local = config.backend == "ray" and not config.ray.address
        self._ray = LocalRay(config, self._say) if is_local else None

    def run(self) -> int:
        """Until a signal, or until the orchestrator says that it cannot work."""
        try:
            return self._run()
        finally:
            if self._ray is not None:
                self._ray.stop()

    def _run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        failures = 0
        while True:
            started_s = time.monotonic()
            try:
                code = self._run_once()
            except TandemError as error:
                self._say(f"tandem up: {error.message}", level=logging.ERROR)
                code = 1 if isinstance(error, Unavailable) else _USAGE
            if self._stopping:
                return 0
            if code == _USAGE:
                return code
            failures = 1 if time.monotonic() - started_s > _HEALTHY_S else failures + 1
            wait_s = min(0.1 * 2 ** (failures - 1), _BACKOFF_MAX_S)
            self._say(f"the orchestrator ended (status {code}); starting it again in {wait_s:.1f} s")
            self._sleep(wait_s)
            if self._stopping:
                return 0

    def _sleep(self, wait_s: float) -> None:
        """In slices: a sleep goes on after a signal was handled."""
        until_s = time.monotonic() + wait_s
        while not self._stopping and (remaining_s := until_s - time.monotonic()) > 0:
            time.sleep(min(remaining_s, _SLEEP_SLICE_S))

    def _run_once(self) -> int:
        line = [sys.executable, "-m", "orchestrator", "--die-with-parent", *self._arguments]
        line += ["--run-dir", str(self._config.run_dir), "--listen", self._listen()]
        line += ["--encoders", str(self._config.encoders), "--reasoners", str(self._config.reasoners)]
        environment = environment_of_child(os.environ)
        if self._ray is not None:
            address = self._ray.address(lambda: self._stopping)
            if self._stopping:
                return 0
            line = [*line, "--address", address]
            environment = environment_of_child(self._ray.environment)
        beats, pulse_fd = os.pipe()
        line += ["--pulse-fd", str(pulse_fd)]
        try:
            # Its own session: Ctrl-C reaches us alone, and we stop it in order.
            self._child = subprocess.Popen(  # noqa: S603
                line, stdin=subprocess.DEVNULL, start_new_session=True, pass_fds=(pulse_fd,), env=environment
            )
        finally:
            os.close(pulse_fd)
        try:
            if self._stopping:  # the signal came before there was a child to pass it to
                self._child.terminate()
            self._watch(self._child, beats)
            return self._child.wait()
        finally:
            os.close(beats)
            self._child = None

    def _watch(self, child: subprocess.Popen[bytes], beats: int) -> None:
        """Until it closes its end of the pipe: it has ended, or has no more to say."""
        pulse = Pulse(time.monotonic())
        while True:
            heard, _, _ = select.select([beats], [], [], PERIOD_S)
            if heard and not os.read(beats, 4096):
                return
            if heard:
                pulse.beat(time.monotonic())
            if pulse.is_frozen(time.monotonic()) and not self._stopping:
                self._say("the orchestrator is frozen: ending it")
                child.kill()

    def _listen(self) -> str:
        """The same port after a restart, also when any free one was asked for."""
        if self._config.listen.endswith(":0") and self._child_ran:
            return read_address(self._config.run_dir) or self._config.listen
        self._child_ran = True
        return self._config.listen

    _child_ran = False

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        # A wait for a child goes on after a signal was handled: only another one can end it.
        signal.setitimer(signal.ITIMER_REAL, STOP_GRACE_S)
        if self._child is not None:
            self._child.terminate()

    def _kill(self, number: int, frame: FrameType | None) -> None:
        if self._child is not None:
            self._child.kill()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tandem up",
        description="Starts an orchestrator, an encoder and a reasoner; Ctrl-C stops them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser, encoders=1, reasoners=1)
    return parser


if __name__ == "__main__":
    sys.exit(main())
