"""Every command line in a pod is one that the program's own parser and checks accept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from encoder_svc.config import parse_config
from orchestrator import up
from orchestrator.arguments import to_config
from reasoner_svc import __main__ as reasoner
from tandem import cli
from tandem.core.addresses import is_reachable_address
from tests.chart.rendering import CI_FILES, RELEASE, Object, render_file

ADDRESSES = {"IPv4": "10.1.2.3", "IPv6": "2001:db8::7"}


def environment(words: list[str], env: list[Object]) -> dict[str, str]:
    """What the kubelet fills in for a container."""
    ip = ADDRESSES["IPv6" if any("[$(POD_IP)]" in word for word in words) else "IPv4"]
    known = {"status.podIP": ip, "metadata.name": "video-x-0", "metadata.namespace": "cameras"}
    return {
        each["name"]: known[each["valueFrom"]["fieldRef"]["fieldPath"]]
        for each in env
        if "fieldRef" in each.get("valueFrom", {})
    }


def expand(words: list[str], values: dict[str, str], tmp_path: Path) -> list[str]:
    """As the kubelet does it; files that a pod mounts are made below `tmp_path`."""
    expanded = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in words]
    for folder in ("/etc/tandem", "/var/lib/tandem"):
        expanded = [word.replace(folder, f"{tmp_path}{folder}") for word in expanded]
    return expanded


def lines() -> list[tuple[str, Object]]:
    """Each different container, by the file that renders it."""
    found: dict[str, tuple[str, Object]] = {}
    for path in CI_FILES:
        for pod, _, spec in render_file(path).pods():
            for container in spec["containers"]:
                found.setdefault(
                    repr(container["args"]), (f"{path.stem}-{pod}-{container['name']}", container)
                )
    return list(found.values())


@pytest.mark.parametrize(("name", "container"), lines(), ids=[name for name, _ in lines()])
def test_the_program_takes_its_command_line(
    name: str, container: Object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(name, container, tmp_path, monkeypatch)
    is_paired = name.startswith(("colocated", "claims"))
    assert ("--pairs" in container["args"]) == (is_paired and container["name"] == "orchestrator")


def takes(name: str, container: Object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a container's command line to the program's own parser and checks."""
    assert container["command"] == ["tandem"]
    for file in ("secret/secret", "quotas/quotas.toml", "tls/tls.crt", "tls/tls.key", "tls/ca.crt",
                 "tokens/tokens.toml", "token/token"):  # fmt: skip
        path = tmp_path / "etc/tandem" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[default]\nstreams = 8\n" if path.name == "quotas.toml" else "0" * 64)
        path.chmod(0o600)
    secret = tmp_path / "etc/tandem/secret/secret"
    values = environment(container["args"], container.get("env", []))
    for variable, value in values.items():
        monkeypatch.setenv(variable, value)
    command, *words = expand(container["args"], values, tmp_path)
    if command == "up":
        config = to_config(up._parser().parse_args(words))
        guarded = any(word.startswith(("--tls-ca", "--tokens")) for word in words)
        assert guarded != config.insecure_network
        assert config.secret_file == secret
        kube = config.kubernetes
        assert (config.backend, kube.release) == ("kubernetes", RELEASE)
        assert (kube.pod, kube.namespace) == ("video-x-0", "cameras")
        assert is_reachable_address(kube.advertise)
        assert kube.alone == ("--alone" in words)
        assert kube.autoscale == any(word.startswith("--min-reasoners") for word in words)
        assert kube.pairs != any(word.startswith("--min-encoders") for word in words) or not kube.autoscale
    elif command == "encoder":
        settings = parse_config(words)
        assert settings.max_streams >= 2 * 256, "those that move and those that ended just now count, too"
        assert settings.read_secret()
        assert settings.orchestrator == f"{RELEASE}-orchestrator.cameras.svc:7420"
    elif command == "reasoner":
        parsed = reasoner._config(reasoner._parser().parse_args(words))
        assert parsed.orchestrator == f"{RELEASE}-orchestrator.cameras.svc:7420"
    else:
        assert command == "watch"
        watch = next(a for a in cli._parser()._actions if isinstance(a.choices, dict)).choices["watch"]
        watch.parse_args(words)


def test_a_wrong_option_is_found() -> None:
    with pytest.raises(SystemExit):
        parse_config(["--no-such-option=1"])


def test_numbers_are_written_out() -> None:
    """Helm makes 3.4e+10 of large numbers, and no parser takes that."""
    words = [word for _, container in lines() for word in container["args"]]
    assert not [word for word in words if re.search(r"=[0-9.]+e\+", word)]
    assert "--ram-bytes=34359738368" in words
    assert "--disk-bytes=989560464998" in words  # nine tenths of 1 Ti
    assert "--decode-memory-bytes=2147483648" in words


def test_both_roles_load_the_same_commits() -> None:
    found = [
        {word for word in container["args"] if "revision" in word}
        for name, container in lines()
        if name.startswith("gpu") and not name.endswith("-orchestrator")
    ]
    assert len(found) == 2
    assert found[0] == found[1]
    assert len(found[0]) == 2
