"""Shell. `python -m encoder_svc.decode.host`: loads what decoding needs, forks a process for each stream.

A fork takes milliseconds and shares what is loaded. This process itself never reads a byte of media: it gets
a socket for each stream over its own, hands it to the fork, and ends when the encoder does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import os
import pkgutil
import signal
import socket
import sys
from collections.abc import Sequence

import av
from PIL import Image

from encoder_svc.admit import MediaLimits
from encoder_svc.decode.talk import send
from encoder_svc.decode.worker import confine, serve


def main(argv: Sequence[str] | None = None) -> int:
    """Until the control socket is closed."""
    parser = argparse.ArgumentParser(prog="python -m encoder_svc.decode.host")
    for name in ("--control", "--memory-bytes", "--cpu-seconds"):
        parser.add_argument(name, type=int, required=True)
    names = [field.name for field in dataclasses.fields(MediaLimits)]
    for name in names:
        parser.add_argument("--" + name.replace("_", "-"), type=int, required=True)
    args = parser.parse_args(argv)
    limits = MediaLimits(**{name: getattr(args, name) for name in names})
    load_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel takes away who ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the encoder says when it is over
    control = socket.socket(fileno=args.control)
    while True:
        data, files, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return 0
        for file in files:
            if os.fork() == 0:
                control.close()
                _decode(socket.socket(fileno=file), limits, args.memory_bytes, args.cpu_seconds)
            os.close(file)


def load_everything() -> None:
    """What PyAV and Pillow load when they come to need it: a process that decodes can open no file."""
    Image.init()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)


def _decode(stream: socket.socket, limits: MediaLimits, memory_bytes: int, cpu_s: int) -> None:
    """In the fork. Does not return."""
    try:
        is_held = confine(memory_bytes, stream.fileno())
        send(stream, ["ready", os.getpid(), is_held])
        with contextlib.suppress(Exception):  # the encoder sees that it is gone
            serve(stream, limits, cpu_s)
    except Exception as error:
        os.write(2, f"a decoding process ends by {type(error).__name__}\n".encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
