"""How a run is laid out on Ray, and what its options may be."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from orchestrator.arguments import add_arguments, to_config
from orchestrator.backends.base import services
from orchestrator.backends.ray_plan import (
    ServiceSpec,
    bundle,
    check_reach,
    groups,
    own_arguments,
    run_name,
    run_of,
    specs,
)
from orchestrator.backends.ray_settings import RaySettings, problems
from orchestrator.config import OrchestratorConfig, ServiceSettings
from tandem.core.errors import InvalidInput

RUN = run_name(b"secret")
WANTED = services(encoders=2, reasoners=2)


def names(ray: RaySettings, device: str = "cpu", wanted=WANTED) -> list[tuple[str, list[str]]]:
    return [(g.strategy, [m.name for m in g.members]) for g in groups(RUN, wanted, ray, device)]


def test_the_services_of_a_role_are_spread():
    assert names(RaySettings()) == [
        ("SPREAD", ["reasoner-0", "reasoner-1"]),
        ("SPREAD", ["encoder-0", "encoder-1"]),
    ]


def test_pairs_share_a_node_and_who_has_no_partner_is_spread():
    wanted = services(encoders=3, reasoners=1)
    assert names(RaySettings(pack_pairs=True), wanted=wanted) == [
        ("STRICT_PACK", ["reasoner-0", "encoder-0"]),
        ("SPREAD", ["encoder-1", "encoder-2"]),
    ]


@pytest.mark.parametrize(
    ("gpus", "device", "expected"),
    [
        (-1, "cpu", {"CPU": 2.0}),
        (-1, "cuda", {"CPU": 2.0, "GPU": 1.0}),
        (0.5, "cuda:0", {"CPU": 2.0, "GPU": 0.5}),
        (0, "cpu", {"CPU": 2.0}),
    ],
)
def test_a_service_reserves_a_gpu_where_it_uses_one(gpus, device, expected):
    assert bundle(RaySettings(cpus=2.0, gpus=gpus), device) == expected
    [group, _] = groups(RUN, WANTED, RaySettings(cpus=2.0, gpus=gpus), device)
    assert group.bundles == [expected, expected]


def test_a_group_says_its_layout_and_its_run():
    one = groups(RUN, WANTED, RaySettings(), "cpu")
    assert [g.name for g in one] == [g.name for g in groups(RUN, WANTED, RaySettings(), "cpu")]
    others = groups(RUN, WANTED, RaySettings(cpus=2), "cpu")
    assert {g.name for g in one}.isdisjoint(g.name for g in others)
    more = groups(RUN, services(encoders=3, reasoners=2), RaySettings(), "cpu")
    assert [a.name == b.name for a, b in zip(one, more, strict=True)] == [True, False]
    assert {run_of(g.name) for g in (*one, *others)} == {RUN}
    assert run_name(b"another") != RUN
    assert [run_of(name) for name in (RUN, "tandem-x.y", "other.group", "")] == [None] * 4


def made(orchestrator: str = "127.0.0.1:7420", **settings) -> dict[str, ServiceSpec]:
    ray = RaySettings(**settings)
    return specs(RUN, groups(RUN, WANTED, ray, "cpu"), orchestrator, "s3", ServiceSettings(), ray, {})


def watched(metrics: str, environment: dict[str, str]) -> ServiceSpec:
    ray, settings = RaySettings(), ServiceSettings(metrics=metrics)
    planned = groups(RUN, WANTED, ray, "cpu")
    return specs(RUN, planned, "10.0.0.1:7420", "s3", settings, ray, environment)["encoder-0"]


def test_how_it_is_watched_reaches_every_node():
    traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://10.0.0.9:4317", "OTEL_TRACES_SAMPLER": "always_on"}
    spec = watched("127.0.0.1:7421", traces | {"HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x"})
    assert dict(spec.environment) == traces
    assert ServiceSpec.from_text(spec.to_text()) == spec
    line = own_arguments(spec, "10.0.0.2")
    assert line == ["--listen", "10.0.0.2:0", "--gloo-host", "10.0.0.2", "--metrics", "10.0.0.2:0"]
    assert own_arguments(spec, "fd00::2")[-2:] == ["--metrics", "[fd00::2]:0"]
    assert "--metrics" not in own_arguments(watched("", {}), "10.0.0.2")
    assert len({watched("", {}).digest, watched("", traces).digest, spec.digest}) == 3


def test_a_spec_travels_as_text():
    for spec in made().values():
        assert ServiceSpec.from_text(spec.to_text()) == spec
    for text in ("", "{}", "[]", '{"name": "x"}', made()["encoder-0"].to_text()[:-1] + ', "new": 1}'):
        with pytest.raises(InvalidInput):
            ServiceSpec.from_text(text)


def test_a_spec_starts_the_services_own_command():
    encoder, reasoner = made()["encoder-0"], made()["reasoner-1"]
    assert encoder.arguments[:3] == ("-m", "encoder_svc", "--die-with-parent")
    assert reasoner.arguments[:3] == ("-m", "reasoner_svc", "--die-with-parent")
    at = reasoner.arguments.index("--orchestrator")
    assert reasoner.arguments[at + 1] == "127.0.0.1:7420"
    assert "s3" not in encoder.arguments, "a command line can be read by everybody on the node"


def test_every_change_changes_the_digest():
    spec = made()["encoder-0"]
    assert spec.digest == made()["encoder-0"].digest
    assert spec.digest != made("127.0.0.1:7421")["encoder-0"].digest
    assert spec.digest != dataclasses.replace(spec, secret="other").digest


def test_services_listen_on_loopback_only_where_the_orchestrator_does():
    assert all(spec.only_this_host for spec in made().values())
    assert not any(spec.only_this_host for spec in made("10.0.0.1:7420").values())


def test_every_node_must_reach_the_orchestrator():
    check_reach("127.0.0.1:7420", "10.0.0.1", ["10.0.0.1", "10.0.0.1"])
    check_reach("10.0.0.1:7420", "10.0.0.1", ["10.0.0.1", "10.0.0.2"])
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.2 cannot reach .*--listen 10\.0\.0\.1:7420"):
        check_reach("127.0.0.1:7420", "10.0.0.1", ["10.0.0.1", "10.0.0.2"])


@pytest.mark.parametrize(
    ("ray", "device", "word"),
    [
        (RaySettings(address="auto"), "cpu", "--address"),
        (RaySettings(address="ray://10.0.0.1:10001"), "cpu", "--address"),
        (RaySettings(address="10.0.0.1:0"), "cpu", "--address"),
        (RaySettings(cpus=0), "cpu", "--ray-cpus"),
        (RaySettings(cpus=float("nan")), "cpu", "--ray-cpus"),
        (RaySettings(gpus=-2), "cpu", "--ray-gpus"),
        (RaySettings(gpus=0), "cuda", "--ray-gpus"),
        (RaySettings(), "cuda:3", "Ray chooses"),
        (RaySettings(orphan_s=0), "cpu", "--orphan-seconds"),
    ],
)
def test_every_wrong_option_is_named(ray, device, word):
    [problem] = problems("ray", ray, device)
    assert word in problem


def test_who_stands_by_on_ray_is_said():
    [problem] = problems("ray", RaySettings(), "cpu", standby=True)
    assert problem.startswith("--standby is for --backend local")
    assert not problems("local", RaySettings(), "cpu", standby=True)


def test_options_of_ray_need_ray():
    assert len(problems("local", RaySettings(address="10.0.0.1:6379", pack_pairs=True), "cuda:3")) == 2
    assert not problems("local", RaySettings(), "cuda:3")
    assert not problems("ray", RaySettings(address="10.0.0.1:6379"), "cuda")
    assert problems("slurm", RaySettings(), "cpu")


def test_the_command_line_says_all_of_it(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser, encoders=1, reasoners=1)
    line = "--backend ray --address 10.0.0.1:6379 --ray-cpus 2 --ray-gpus 0.5 --pack-pairs --insecure-ray"
    line += f" --orphan-seconds 60 --run-dir {tmp_path}"
    config: OrchestratorConfig = to_config(parser.parse_args(line.split()))
    assert config.backend == "ray"
    assert config.ray == RaySettings(
        address="10.0.0.1:6379", cpus=2, gpus=0.5, pack_pairs=True, insecure=True, orphan_s=60
    )
