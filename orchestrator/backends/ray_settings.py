"""Pure. What the `ray` backend is told: options, defaults, and what is wrong with them."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from tandem.core.errors import InvalidInput
from tandem.wire.channel import is_wildcard, parse_address

BACKENDS = ("local", "ray", "kubernetes")
"""What services can run on. With no service to start (`tandem orchestrator`) none is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaySettings:
    """How services are placed on Ray."""

    address: str = ""
    """host:port of the GCS of a running Ray; empty: `tandem up` starts a Ray on this machine."""
    cpus: float = 1.0
    """CPUs that each service reserves."""
    gpus: float = -1.0
    """GPUs that each service reserves; -1: one where the device is CUDA, else none."""
    pack_pairs: bool = False
    """Encoder and reasoner of the same number on one node."""
    insecure: bool = False
    """Use a Ray that asks for no token."""
    orphan_s: float = 300.0
    """Services end by themselves when no orchestrator has looked after them for so long."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, with their defaults."""
    add, own = parser.add_argument_group("placement on Ray (docs/ray.md)").add_argument, RaySettings()
    add("--backend", default="local", choices=BACKENDS, help="what the services run on (%(default)s)")
    add(
        "--address",
        default=own.address,
        metavar="HOST:PORT",
        help="a running Ray, on a node of which this is; without it a Ray is started here, for this run",
    )
    add("--ray-cpus", type=float, default=own.cpus, help="reserved for each service (%(default)s)")
    add(
        "--ray-gpus",
        type=float,
        default=own.gpus,
        help="reserved for each service; -1: one where --device is cuda (%(default)s)",
    )
    add(
        "--pack-pairs",
        action="store_true",
        help="encoder-N and reasoner-N on one node, where blocks go through shared memory",
    )
    add(
        "--orphan-seconds",
        type=float,
        default=own.orphan_s,
        help="services on Ray end when no orchestrator has asked for them for so long (%(default)s)",
    )
    add(
        "--insecure-ray",
        action="store_true",
        help="use a Ray without token authentication: whoever reaches it runs code on it",
    )


def from_arguments(args: argparse.Namespace) -> RaySettings:
    """What was parsed; not checked yet."""
    return RaySettings(
        address=args.address,
        cpus=args.ray_cpus,
        gpus=args.ray_gpus,
        pack_pairs=args.pack_pairs,
        insecure=args.insecure_ray,
        orphan_s=args.orphan_seconds,
    )


def problems(backend: str, ray: RaySettings, device: str, *, standby: bool = False) -> list[str]:
    """What is wrong, each with the option's name and what to do."""
    if backend not in BACKENDS:
        return [f"--backend: {backend!r} is not one of {', '.join(BACKENDS)}"]
    if backend != "ray":
        given = {"--address": ray.address, "--pack-pairs": ray.pack_pairs, "--insecure-ray": ray.insecure}
        return [f"{option} is about Ray: give --backend ray too" for option, value in given.items() if value]
    found = _address_problems(ray.address)
    if standby:
        found.append("--standby is for --backend local; on Ray, more --encoders and --reasoners stand by")
    if not math.isfinite(ray.cpus) or ray.cpus <= 0:
        found.append(f"--ray-cpus is {ray.cpus}, more than 0 is needed")
    if not math.isfinite(ray.gpus) or (ray.gpus < 0 and ray.gpus != -1):
        found.append(f"--ray-gpus is {ray.gpus}, expected 0 or more, or -1")
    if not math.isfinite(ray.orphan_s) or ray.orphan_s < 1:
        found.append(f"--orphan-seconds is {ray.orphan_s}, at least 1 is needed")
    if device not in ("cpu", "cuda", "cuda:0"):
        found.append(f"--device {device}: Ray chooses the device of each service; say cpu or cuda")
    if device.startswith("cuda") and ray.gpus == 0:
        found.append(f"--device {device} needs --ray-gpus above 0: Ray hides the GPUs that are not reserved")
    return found


def _address_problems(address: str) -> list[str]:
    if not address:
        return []
    try:
        _, port = parse_address(address)
        if port == 0 or "/" in address or is_wildcard(address):
            raise InvalidInput(f"{address} is no address of a Ray")
    except InvalidInput as error:
        return [f"--address: {error.message}; `ray start --head` prints it, as host:port"]
    return []
