"""Volumes of a pod as folders."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

from orchestrator.backends.kubernetes_api import KubeApi
from tests.kube.real.commands import quantity

Item = dict[str, Any]


class Volumes:
    """Those of one pod, in `folder`; `unmount` them."""

    def __init__(self, api: KubeApi, pod: Item, folder: Path, claims: Path) -> None:
        self._api, self._pod, self._folder, self._claims = api, pod, folder, claims
        self._group: int = pod["spec"].get("securityContext", {}).get("fsGroup", 0)
        self._mounted: list[Path] = []

    async def make(self) -> dict[str, Path]:
        """Folder by name. Raises NotFound while a Secret or a ConfigMap is not there."""
        return {each["name"]: await self._one(each) for each in self._pod["spec"].get("volumes", [])}

    def unmount(self) -> None:
        for path in self._mounted:
            subprocess.run(["umount", "--lazy", str(path)], check=False)
        self._mounted = []

    async def object(self, kind: str, name: str) -> Item:
        namespace = self._pod["metadata"]["namespace"]
        return await self._api.call("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}")

    async def _one(self, volume: Item) -> Path:
        folder = self._folder / volume["name"]
        folder.mkdir(parents=True, exist_ok=True)
        if "emptyDir" in volume:
            self._empty(folder, volume["emptyDir"])
        elif "secret" in volume:
            found = await self.object("secrets", volume["secret"]["secretName"])
            files = {key: base64.b64decode(value) for key, value in found.get("data", {}).items()}
            self._fill(folder, volume["secret"], files)
        elif "configMap" in volume:
            found = await self.object("configmaps", volume["configMap"]["name"])
            self._fill(
                folder,
                volume["configMap"],
                {key: value.encode() for key, value in found.get("data", {}).items()},
            )
        elif "persistentVolumeClaim" in volume:
            # One folder for a claim, whichever pod has it: it outlives pods.
            folder = self._claims / volume["persistentVolumeClaim"]["claimName"]
            folder.mkdir(parents=True, exist_ok=True)
            self._own(folder, 0o2775)
        else:
            raise AssertionError(f"a volume of a kind that this kubelet does not know: {volume}")
        return folder

    def _empty(self, folder: Path, source: Item) -> None:
        if source.get("medium") == "Memory" and folder not in self._mounted:
            size = quantity(source.get("sizeLimit", "1Gi"))
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "volume", str(folder)], check=True)
            self._mounted.append(folder)
        self._own(folder, 0o2777)

    def _fill(self, folder: Path, source: Item, files: dict[str, bytes]) -> None:
        """As a kubelet does: files behind two links, readable by the pod's group whatever the mode says."""
        keys = {each["key"]: each["path"] for each in source.get("items", [])} or {key: key for key in files}
        inside = folder / "..first"
        inside.mkdir(exist_ok=True)
        self._own(inside, 0o755)
        for key, path in keys.items():
            target = inside / path
            target.write_bytes(files[key])
            mode = int(source.get("defaultMode", 0o644))
            self._own(target, mode | (0o440 if self._group else 0))
            if not (folder / path).is_symlink():
                (folder / path).symlink_to(Path("..data") / path)
        if not (folder / "..data").is_symlink():
            (folder / "..data").symlink_to("..first")
        self._own(folder, 0o2775)

    def _own(self, path: Path, mode: int) -> None:
        os.chown(path, 0, self._group)
        path.chmod(mode)
