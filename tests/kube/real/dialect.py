"""The chart in the words of Kubernetes 1.20: a copy, each change of which must be there to be made.

The newest server that can be built from sources alone is of 1.20 (`scripts/kube-build`); the chart asks for
1.27. Nothing is changed but names of API versions, fields that 1.20 does not have, and probes: gRPC ones
become commands that the kubelet of these tests (`probes.py`) understands as what they were.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.kube.real.probes import AS_COMMAND

# File, what is there (a regular expression), what 1.20 gets.
CHANGES = (
    ("Chart.yaml", r'kubeVersion: ">=1\.27\.0-0"', 'kubeVersion: ">=1.20.0-0"'),
    ("templates/_pod.tpl", r"  grpc:\n    port: \{\{ \.health \}\}\n    service: (\w+)\n",
     rf'  exec:\n    command: [{AS_COMMAND}, "{{{{ .health }}}}", \1]\n'),
    ("templates/_pod.tpl", r"  grpc:\n    port: \{\{ \.health \}\}\n",
     rf'  exec:\n    command: [{AS_COMMAND}, "{{{{ .health }}}}"]\n'),
    ("templates/_containers.tpl", r"  persistentVolumeClaimRetentionPolicy:\n.*\n.*\n", ""),
    # Its server-side apply knows no default for a part of a list's key.
    ("templates/network-services.yaml", r"- \{name: ", "- {protocol: TCP, name: "),
    ("templates/_containers.tpl", r"- \{(name: [\w-]+, containerPort)", r"- {protocol: TCP, \1"),
    ("templates/orchestrator.yaml", r"- \{(name: [\w-]+, containerPort)", r"- {protocol: TCP, \1"),
    ("templates/disruption.yaml", r"apiVersion: policy/v1\b", "apiVersion: policy/v1beta1"),
    ("templates/disruption.yaml", r"  unhealthyPodEvictionPolicy: .*\n", ""),
    ("templates/network-policies.yaml", r" \"endPort\" \(int [^)]*\)", ""),
)  # fmt: skip


def copy_chart(chart: Path, folder: Path) -> Path:
    """The copy. Raises AssertionError when the chart has not what is to be changed."""
    copy = folder / "chart"
    shutil.copytree(chart, copy)
    for name, there, instead in CHANGES:
        text, count = re.subn(there, instead, (copy / name).read_text())
        assert count, f"{name} has nothing like {there!r} any more: see what 1.20 makes of it now"
        (copy / name).write_text(text)
    return copy
