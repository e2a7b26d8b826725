"""What no schema says: that objects of a release belong together, and are as safe as the chart promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.backends.kubernetes_pods import COMPONENT, INSTANCE, pod_of, workload
from orchestrator.backends.kubernetes_settings import KubernetesSettings
from orchestrator.membership import Role
from tandem.wire.health import READY, STARTED
from tests.chart.rendering import CHART, CI_FILES, RELEASE, Object, Rendered, read, render_file

QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
every_file = pytest.mark.parametrize("path", CI_FILES, ids=lambda path: path.stem)


def containers(rendered: Rendered) -> Iterator[tuple[str, Object]]:
    """Every container, those that only prepare included."""
    for pod, _, spec in rendered.pods():
        for each in (*spec.get("initContainers", []), *spec["containers"]):
            yield f"{pod}/{each['name']}", each


def selects(selector: Object, labels: Object) -> bool:
    """Whether a label selector (of equalities) takes a pod."""
    assert set(selector) <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


@every_file
def test_selectors_select_their_own_pods(path: Path) -> None:
    rendered = render_file(path)
    pods = {name: labels for name, labels, _ in rendered.pods()}
    for each in rendered.of("StatefulSet"):
        own = [name for name, labels in pods.items() if selects(each["spec"]["selector"], labels)]
        assert own == [each["metadata"]["name"]]
        assert each["spec"]["podManagementPolicy"] == "Parallel"
    for each in rendered.of("PodDisruptionBudget"):
        assert each["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", (
            "a crash loop must not hold a node"
        )
        own = [name for name, labels in pods.items() if selects(each["spec"]["selector"], labels)]
        assert own == [each["metadata"]["name"]]
    for each in rendered.of("Service"):
        own = [name for name, labels in pods.items() if each["spec"]["selector"].items() <= labels.items()]
        assert len(own) == 1
        assert each["metadata"]["name"] in {own[0], f"{own[0]}-pods"}
    for _, labels, spec in rendered.pods():
        for spread in spec.get("topologySpreadConstraints", []):
            assert selects(spread["labelSelector"], labels)


@every_file
def test_the_names_that_the_orchestrator_goes_by(path: Path) -> None:
    """Its backend finds pods by these labels, and scales and leads under these names."""
    rendered = render_file(path)
    for name, labels, spec in rendered.pods():
        component = labels[COMPONENT]
        assert name == f"{RELEASE}-{component}"
        assert labels[INSTANCE] == RELEASE
        if component in set(Role):
            assert name == workload(RELEASE, Role(component))
        pod = pod_of({"metadata": {"name": "POD_NAME", "labels": labels}})
        named = {
            word.partition("=")[2].replace("$(POD_NAME)", "POD_NAME"): each["name"]
            for each in spec["containers"]
            for word in each.get("args", [])
            if word.startswith("--name=")
        }
        assert named == ({each.name: each.role.value for each in pod.services} if pod else {})
    kinds = {labels[COMPONENT] for _, labels, _ in rendered.pods()} - {"test"}
    colocated = read(path).get("mode") == "colocated"
    assert kinds == ({"orchestrator", "pair"} if colocated else {"orchestrator", "encoder", "reasoner"})


@every_file
def test_stable_names_come_from_headless_services(path: Path) -> None:
    rendered = render_file(path)
    for each in rendered.of("StatefulSet"):
        service = rendered.named("Service", each["spec"]["serviceName"])["spec"]
        assert service["clusterIP"] == "None"
        assert service["publishNotReadyAddresses"] is True


@every_file
def test_ports_are_what_services_and_monitors_mean(path: Path) -> None:
    rendered = render_file(path)
    ports = {
        labels["app.kubernetes.io/component"]: [p for c in spec["containers"] for p in c.get("ports", [])]
        for _, labels, spec in rendered.pods()
    }
    for each in rendered.of("Service"):
        named = {p["name"]: p for p in ports[each["spec"]["selector"]["app.kubernetes.io/component"]]}
        for port in each["spec"]["ports"]:
            assert port["port"] == named[port["targetPort"]]["containerPort"]
    metrics = {p["name"] for each in ports.values() for p in each if p["name"].startswith("metrics")}
    for each in rendered.of("PodMonitor"):
        assert metrics == {end["port"] for end in each["spec"]["podMetricsEndpoints"]}
    for each in rendered.of("ServiceMonitor"):
        assert metrics == {end["port"] for end in each["spec"]["endpoints"]}
        scraped = [
            s for s in rendered.of("Service") if selects(each["spec"]["selector"], s["metadata"]["labels"])
        ]
        assert metrics == {p["name"] for s in scraped for p in s["spec"]["ports"]} & metrics
        assert len(scraped) == len(list(rendered.of("StatefulSet")))
    for listed in ports.values():
        for key in ("name", "containerPort"):
            values = [each[key] for each in listed]
            assert len(values) == len(set(values))
        assert all(len(each["name"]) <= 15 for each in listed)


@every_file
def test_every_container_is_restricted(path: Path) -> None:
    rendered = render_file(path)
    for _, _, spec in rendered.pods():
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True
        assert min(pod["runAsUser"], pod["runAsGroup"], pod["fsGroup"]) > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all(
            {"emptyDir", "secret", "configMap", "persistentVolumeClaim"} & set(v) for v in spec["volumes"]
        )
    for name, each in containers(rendered):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }, name
        assert any(mount["mountPath"] == "/tmp" for mount in each["volumeMounts"])
        assert not [port for port in each.get("ports", []) if "hostPort" in port]


@every_file
def test_only_the_orchestrator_talks_to_the_api(path: Path) -> None:
    rendered = render_file(path)
    accounts = {each["metadata"]["name"]: each for each in rendered.of("ServiceAccount")}
    for name, _, spec in rendered.pods():
        assert spec["serviceAccountName"] == name
        assert accounts[name]["automountServiceAccountToken"] is False
        assert spec["automountServiceAccountToken"] is (name == f"{RELEASE}-orchestrator")
    (binding,) = rendered.of("RoleBinding")
    assert [each["name"] for each in binding["subjects"]] == [f"{RELEASE}-orchestrator"]
    (role,) = rendered.of("Role")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    rights = {
        (resource, verb, tuple(rule.get("resourceNames", ())))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    lease = (KubernetesSettings(release=RELEASE).lease,)
    colocated = read(path).get("mode") == "colocated"
    roles = (None,) if colocated else (Role.ENCODER, Role.REASONER)
    sets = tuple(workload(RELEASE, role) for role in roles)
    assert set(sets) <= {each["metadata"]["name"] for each in rendered.of("StatefulSet")}
    wanted = {("pods", verb, ()) for verb in ("list", "watch")} | {("leases", "create", ())}
    wanted |= {("leases", verb, lease) for verb in ("get", "update")}
    scales = read(path).get("reasoner", {}).get("autoscaling", {}).get("mode") == "orchestrator"
    wanted |= {("statefulsets/scale", verb, sets) for verb in (("get", "patch") if scales else ("get",))}
    assert rights == wanted
    assert not list(rendered.of("ClusterRole", "ClusterRoleBinding"))


@every_file
def test_what_pods_refer_to_is_there_or_is_named_in_the_values(path: Path) -> None:
    rendered, values = render_file(path), path.read_text()
    made = {(each["kind"], each["metadata"]["name"]) for each in rendered.objects}
    made |= {("Secret", each["spec"]["secretName"]) for each in rendered.of("Certificate")}
    for _, _, spec in rendered.pods():
        wanted = [("Secret", each["secret"]["secretName"]) for each in spec["volumes"] if "secret" in each]
        wanted += [
            ("ConfigMap", each["configMap"]["name"]) for each in spec["volumes"] if "configMap" in each
        ]
        wanted += [
            ("PersistentVolumeClaim", each["persistentVolumeClaim"]["claimName"])
            for each in spec["volumes"]
            if "persistentVolumeClaim" in each
        ]
        wanted += [("Secret", each["name"]) for each in spec.get("imagePullSecrets", [])]
        wanted += [
            ("Secret", each["valueFrom"]["secretKeyRef"]["name"])
            for container in spec["containers"]
            for each in container.get("env", [])
            if "secretKeyRef" in each.get("valueFrom", {})
        ]
        for reference in wanted:
            assert reference in made or re.search(rf"\b{re.escape(reference[1])}\b", values), reference


@every_file
def test_mounts_and_volumes_match(path: Path) -> None:
    rendered = render_file(path)
    claims = {
        each["metadata"]["name"]: {
            c["metadata"]["name"] for c in each["spec"].get("volumeClaimTemplates", [])
        }
        for each in rendered.of("StatefulSet")
    }
    for name, _, spec in rendered.pods():
        volumes = [each["name"] for each in spec["volumes"]] + sorted(claims.get(name, ()))
        assert len(volumes) == len(set(volumes))
        every = (*spec.get("initContainers", []), *spec["containers"])
        assert {m["name"] for each in every for m in each["volumeMounts"]} == set(volumes)
        for each in every:
            places = [m["mountPath"] for m in each["volumeMounts"]]
            assert len(places) == len(set(places))


@every_file
def test_every_service_is_probed_on_its_plain_port(path: Path) -> None:
    for name, _, spec in render_file(path).pods():
        if name.endswith("-test"):
            continue
        for each in spec["containers"]:
            (health,) = (p["containerPort"] for p in each["ports"] if p["name"].startswith("health"))
            assert f":{health}" in next(word for word in each["args"] if word.startswith("--health="))
            assert each["startupProbe"]["grpc"] == {"port": health, "service": STARTED}
            assert each["livenessProbe"]["grpc"] == {"port": health}
            assert each["readinessProbe"]["grpc"] == {"port": health, "service": READY}


@every_file
def test_a_pod_has_time_to_drain(path: Path) -> None:
    for name, _, spec in render_file(path).pods():
        for each in spec["containers"]:
            drains = [
                float(word.split("=")[1])
                for word in each["args"]
                if word.startswith(("--drain-s=", "--drain-seconds="))
            ]
            assert len(drains) == (0 if name.endswith(("-orchestrator", "-test")) else 1)
            assert all(spec["terminationGracePeriodSeconds"] >= drain + 15 for drain in drains)


@every_file
def test_nothing_is_named_too_long_or_by_a_moving_tag(path: Path) -> None:
    rendered = render_file(path)
    for each in rendered.objects:
        assert len(each["metadata"]["name"]) <= 63
        assert NAME.fullmatch(each["metadata"]["name"])
        assert each["metadata"].get("namespace") is None
    for name, each in containers(rendered):
        assert re.search(r":[0-9][^:/]*$|@sha256:[0-9a-f]{64}$", each["image"]), name
        for kind in ("requests", "limits"):
            assert all(QUANTITY.fullmatch(str(value)) for value in each["resources"][kind].values())
        assert {"cpu", "memory"} <= set(each["resources"]["requests"])
        assert "memory" in each["resources"]["limits"]


@every_file
def test_gpus_are_reserved_where_the_program_uses_them(path: Path) -> None:
    for _, each in containers(render_file(path)):
        device = next((word for word in each.get("args", []) if word.startswith("--device=")), "")
        resources = each["resources"]
        has_gpu = "nvidia.com/gpu" in resources["limits"] or bool(resources.get("claims"))
        assert has_gpu == device.startswith("--device=cuda")
        assert resources["limits"].get("nvidia.com/gpu") == resources["requests"].get("nvidia.com/gpu")


@every_file
def test_one_scaler_at_most_and_nobody_sets_what_it_sets(path: Path) -> None:
    rendered = render_file(path)
    sets = {each["metadata"]["name"]: each["spec"] for each in rendered.of("StatefulSet")}
    scalers = list(rendered.of("HorizontalPodAutoscaler", "ScaledObject"))
    targets = [each["spec"]["scaleTargetRef"]["name"] for each in scalers]
    assert len(targets) == len(set(targets))
    values = read(path)
    for name, spec in sets.items():
        role = name.rpartition("-")[2].replace("pair", "reasoner")
        mode = values.get(role, {}).get("autoscaling", {}).get("mode", "none")
        assert (name in targets) == (mode in {"hpa", "keda"})
        assert ("replicas" in spec) == (mode == "none")


def test_claims_of_containers_are_claims_of_their_pod() -> None:
    for kube, place in (("1.27", lambda each: each["source"]), ("1.36", lambda each: each)):
        rendered = render_file(CHART / "ci/claims-values.yaml", kube)
        spec = rendered.named("StatefulSet", f"{RELEASE}-pair")["spec"]["template"]["spec"]
        templates = {
            each["name"]: place(each)["resourceClaimTemplateName"] for each in spec["resourceClaims"]
        }
        assert templates == {"encoder-gpu": "half-a-gpu", "reasoner-gpu": "one-gpu"}
        for each in spec["containers"]:
            assert each["resources"]["claims"] == [{"name": f"{each['name']}-gpu"}]


def test_a_pair_shares_memory() -> None:
    rendered = render_file(next(path for path in CI_FILES if path.stem == "colocated-values"))
    spec = rendered.named("StatefulSet", f"{RELEASE}-pair")["spec"]["template"]["spec"]
    (shm,) = (each for each in spec["volumes"] if each["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    for each in spec["containers"]:
        assert {"name": "shm", "mountPath": "/dev/shm"} in each["volumeMounts"]
        assert "--lanes=shm,gloo" in each["args"]
    names = [word for each in spec["containers"] for word in each["args"] if word.startswith("--name=")]
    assert len(set(names)) == 2


def test_no_secret_is_in_a_pod_or_a_config_map() -> None:
    for path in CI_FILES:
        rendered = render_file(path)
        secrets = list(rendered.of("Secret"))
        given = "existingSecret: video-cluster-secret" in path.read_text()
        assert len(secrets) == (0 if given else 1)
        for each in secrets:
            assert each["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
            value = each["data"]["secret"]
            assert len(value) >= 64
            assert value not in str([o for o in rendered.objects if o is not each])


def test_no_secret_is_in_an_environment() -> None:
    """Processes that decode foreign video have their parent's environment, and can open no file."""
    for path in CI_FILES:
        for name, each in containers(render_file(path)):
            for variable in each.get("env", []):
                assert not {"secretKeyRef", "secretRef"} & set(variable.get("valueFrom", {})), name
            assert "envFrom" not in each
    rendered = render_file(CHART / "ci/gpu-values.yaml")
    for role in ("encoder", "reasoner"):
        spec = rendered.named("StatefulSet", f"{RELEASE}-{role}")["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        (path_of_token,) = (each["value"] for each in container["env"] if each["name"] == "HF_TOKEN_PATH")
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == "hub-token")
        (volume,) = (each for each in spec["volumes"] if each["name"] == "hub-token")
        (item,) = volume["secret"]["items"]
        assert path_of_token == f"{mount['mountPath']}/{item['path']}"


@every_file
def test_one_orchestrator_knows_that_it_is_alone(path: Path) -> None:
    """It leads on while the API is away; of several each would believe that."""
    spec = render_file(path).named("StatefulSet", f"{RELEASE}-orchestrator")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert ("--alone" in container["args"]) == (spec["replicas"] == 1)
