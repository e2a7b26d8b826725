"""Shell. Reads the cluster secret, the same way in every process."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

from tandem.core.errors import InvalidInput
from tandem.core.tickets import MIN_SECRET_BYTES

log = logging.getLogger(__name__)


def read_secret(path: Path) -> bytes:
    """The cluster secret in a file, without the white space around it.

    Warns when everybody on the machine can read it. Raises InvalidInput when it cannot be read or is short.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read().strip()
    except OSError as error:
        raise InvalidInput(f"cannot read the secret file {path}: {error.strerror or error}") from error
    if len(secret) < MIN_SECRET_BYTES:
        raise InvalidInput(
            f"the secret file {path} holds {len(secret)} bytes, at least {MIN_SECRET_BYTES} are needed"
        )
    if mode & stat.S_IROTH:
        log.warning("everybody on this machine can read the secret file %s: chmod 600 %s", path, path)
    return secret
