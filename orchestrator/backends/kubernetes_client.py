"""Shell: the official client of the Kubernetes API, made of a kubeconfig or of a pod's service account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tandem.core.errors import InvalidInput, Unavailable


async def make_client(kubeconfig: str = "") -> Any:
    """An `ApiClient` of `kubernetes.aio.client`; nothing is sent.

    Raises:
        Unavailable: the extra `kubernetes` is not installed.
        InvalidInput: there is no usable configuration.
    """
    try:
        from kubernetes.aio import client, config
    except ImportError as error:
        raise Unavailable("this needs the Kubernetes client: pip install 'tandem[kubernetes]'") from error
    settings = client.Configuration()
    try:
        if kubeconfig:
            await config.load_kube_config(config_file=kubeconfig, client_configuration=settings)
        else:
            config.load_incluster_config(client_configuration=settings)
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        where = f"--kubeconfig {kubeconfig}" if kubeconfig else "this pod's service account"
        raise InvalidInput(f"cannot reach the Kubernetes API with {where}: {error}") from error
    return client.ApiClient(settings)


def authority(client: Any) -> bytes:
    """What certificates of the server are verified by, as its file says it now; empty: there is none."""
    try:
        return Path(client.configuration.ssl_ca_cert).read_bytes()
    except (OSError, TypeError, AttributeError):
        return b""
