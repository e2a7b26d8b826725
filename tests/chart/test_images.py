"""The images: what a linter would say of the Dockerfiles, and that they fit the chart. None is built here."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.chart.rendering import CHART, ROOT, Object, defaults, render_file

ROLES = ("orchestrator", "encoder", "reasoner")
KNOWN = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "LABEL", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
"""Instructions that are used. ADD, which unpacks and loads what it is given, is not one of them."""
PROJECT: Object = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and words of each."""
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def problems(text: str) -> list[str]:
    """What a linter of Dockerfiles would say."""
    found = []
    given = instructions(text)
    found += [f"{name} is not used here" for name, _ in given if name not in KNOWN]
    bases = [words for name, words in given if name == "FROM"]
    default = dict(words.split("=", 1) for name, words in given if name == "ARG" and "=" in words)
    for words in bases:
        base = words.split()[0].replace("${BASE}", default.get("BASE", ""))
        if not re.search(r":[0-9]+\.[0-9]+\.[0-9]+|@sha256:", base):
            found.append(f"{base} names no fixed version")
    for _, words in ((name, words) for name, words in given if name == "RUN"):
        if re.search(r"\b(curl|wget|git|apt-get|apk|sudo)\b", words):
            found.append(f"RUN loads something, or becomes root: {words}")
        if "pip install" in words and "--constraint constraints.txt" not in words:
            found.append("pip without constraints.txt")
    last = given[max(n for n, (name, _) in enumerate(given) if name == "FROM") :]
    users = [words for name, words in last if name == "USER"]
    if not users or not re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", users[-1]):
        found.append("the last USER is not a number other than 0: Kubernetes cannot tell that it is not root")
    for name in ("ENTRYPOINT", "CMD"):
        words = [each for instruction, each in last if instruction == name]
        if len(words) != 1 or not words[0].startswith("["):
            found.append(f"{name} goes through a shell, which keeps signals to itself")
    if [
        words
        for name, words in given
        if name in {"ARG", "ENV"} and re.search(r"(?i)token|secret|passw", words)
    ]:
        found.append("a secret would be in the image")
    return found


def read_image(role: str) -> str:
    return (ROOT / f"docker/{role}.Dockerfile").read_text()


@pytest.mark.parametrize("role", ROLES)
def test_a_linter_finds_nothing(role: str) -> None:
    assert problems(read_image(role)) == []


def test_the_linter_finds_what_is_wrong() -> None:
    wrong = (
        "ARG BASE=python:latest\nFROM ${BASE}\nADD x y\nARG HUB_TOKEN\n"
        "RUN apt-get install x\nRUN pip install x\nUSER root\nCMD run\n"
    )
    assert len(problems(wrong)) == 8


@pytest.mark.parametrize("role", ROLES)
def test_an_image_fits_the_chart(role: str) -> None:
    given = instructions(read_image(role))
    words = {name: value for name, value in given if name in {"USER", "EXPOSE", "ENTRYPOINT", "CMD", "LABEL"}}
    values = defaults()
    user = values["podSecurity"]["id"]
    assert words["USER"] == f"{user}:{user}"
    assert f'title="{values[role]["image"]["repository"]}"' in words["LABEL"]
    rendered = render_file(CHART / "ci/observed-values.yaml")
    spec = rendered.named("StatefulSet", f"video-{role}")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert {int(port) for port in words["EXPOSE"].split()} == {
        port["containerPort"] for port in container["ports"]
    }
    assert json.loads(words["ENTRYPOINT"]) == container["command"]
    assert json.loads(words["CMD"])[0] == container["args"][0]


@pytest.mark.parametrize("role", ROLES)
def test_everything_that_is_installed_is_copied(role: str) -> None:
    given = instructions(read_image(role))
    copied = {
        source
        for name, words in given
        if name == "COPY" and not words.startswith("--from")
        for source in words.split()[:-1]
    }
    packages = {name.rstrip("*") for name in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    files = {
        "pyproject.toml",
        "constraints.txt",
        PROJECT["project"]["readme"],
        *PROJECT["project"]["license-files"],
    }
    assert copied == packages | files
    assert all((ROOT / each).exists() for each in copied)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    for secret in (".git", "run", ".venv"):
        assert not any(fnmatch.fnmatch(secret, line[1:]) for line in ignored if line.startswith("!"))
    (extras,) = (re.findall(r"\.\[([\w,]+)\]", words)[0] for name, words in given if "pip install" in words)
    known = PROJECT["project"]["optional-dependencies"]
    assert set(extras.split(",")) <= set(known)
    has_torch = any(each.startswith("torch") for extra in extras.split(",") for each in known[extra])
    assert has_torch == (role != "orchestrator")


def test_the_clip_of_the_test_is_drawn_without_torch(tmp_path: Path) -> None:
    """The container that draws it runs in the orchestrator's image: what is not in there is hidden."""
    pod = render_file(CHART / "ci/default-values.yaml").named("Pod", "video-test")
    (draw,) = pod["spec"]["initContainers"]
    assert draw["command"] == ["python", "-c"]
    (script,) = draw["args"]
    clip = tmp_path / "clip.mp4"
    assert "'/tmp/clip.mp4'" in script
    assert "/tmp/clip.mp4" in pod["spec"]["containers"][0]["args"]
    hide = "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None); "
    subprocess.run(
        [sys.executable, "-c", hide + script.replace("/tmp/clip.mp4", str(clip))],
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert clip.stat().st_size > 10_000
