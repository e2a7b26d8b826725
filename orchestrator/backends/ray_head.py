"""Shell. A Ray of one node on this machine, for as long as this process runs: ``python -m ...ray_head``.

A process of its own, so that it outlives the orchestrator, and neither Ray's signal handlers nor its habit of
ending its drivers meet `tandem up`. It prints one line: the address of the GCS when Ray can be used, or
why there is none.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from orchestrator.backends.ray_cluster import need_ray
from tandem.core.errors import TandemError
from tandem.core.lifetime import die_with_parent

_OBJECT_STORE_BYTES = 80 * 1024 * 1024
"""About the least that Ray takes: nothing of ours goes through its object store."""
NO_RAY = "no Ray: "
"""What the line begins with that says why there is none."""
_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM; returns the exit status: 2 when there is no Ray to start."""
    parent_pid = os.getppid()
    parser = argparse.ArgumentParser(prog="ray_head", description=main.__doc__)
    parser.add_argument("--cpus", type=int, required=True)
    args = parser.parse_args(argv)
    die_with_parent(parent_pid)
    try:
        ray = need_ray()
    except TandemError as error:
        print(NO_RAY + error.message, flush=True)
        return _USAGE
    # "local": never joins a Ray that an earlier `ray start` left a note of.
    context = ray.init(
        address="local",
        num_cpus=args.cpus,
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        log_to_driver=False,
        configure_logging=False,
    )

    def end(number: int, frame: FrameType | None) -> None:
        ray.shutdown()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    print(context.address_info["gcs_address"], flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    sys.exit(main())
