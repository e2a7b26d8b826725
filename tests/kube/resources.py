"""The kinds that the fake API server serves, and what a real one treats differently about each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """One kind of one group and version."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    has_status: bool = False
    has_scale: bool = False
    unconditional_update: bool = True
    """A PUT without a resourceVersion replaces whatever is there."""
    has_schema: bool = True
    """kubernetes-validate knows it; kinds of CRDs it does not."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def singular(self) -> str:
        return self.kind.lower()


def _core(plural: str, kind: str, **options: bool) -> Resource:
    return Resource("", "v1", plural, kind, **options)


def _apps(plural: str, kind: str, *, has_scale: bool = True) -> Resource:
    return Resource("apps", "v1", plural, kind, has_status=True, has_scale=has_scale)


def _custom(group: str, version: str, plural: str, kind: str) -> Resource:
    return Resource(group, version, plural, kind, has_schema=False, unconditional_update=False)


BUILT_IN = (
    _core("namespaces", "Namespace", namespaced=False, has_status=True),
    _core("nodes", "Node", namespaced=False, has_status=True),
    _core("pods", "Pod", has_status=True),
    _core("services", "Service", has_status=True),
    _core("configmaps", "ConfigMap"),
    _core("secrets", "Secret"),
    _core("serviceaccounts", "ServiceAccount"),
    _core("persistentvolumeclaims", "PersistentVolumeClaim", has_status=True),
    _core("endpoints", "Endpoints"),
    _core("events", "Event"),
    _apps("deployments", "Deployment"),
    _apps("statefulsets", "StatefulSet"),
    _apps("replicasets", "ReplicaSet"),
    _apps("daemonsets", "DaemonSet", has_scale=False),
    Resource("batch", "v1", "jobs", "Job", has_status=True),
    Resource("batch", "v1", "cronjobs", "CronJob", has_status=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease", unconditional_update=False),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Resource("networking.k8s.io", "v1", "ingresses", "Ingress", has_status=True),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", has_status=True,
             unconditional_update=False),
    Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", has_status=True),
    Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Resource("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    Resource("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding",
             namespaced=False),
    Resource("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
)  # fmt: skip

CUSTOM = (
    _custom("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor"),
    _custom("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor"),
    _custom("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule"),
    _custom("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    _custom("cert-manager.io", "v1", "certificates", "Certificate"),
    _custom("cert-manager.io", "v1", "issuers", "Issuer"),
    _custom("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute"),
)
"""What a chart may render for operators that a cluster may have."""
