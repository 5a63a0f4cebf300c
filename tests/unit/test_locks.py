"""What the images install is what is tested here, pinned by hash, and all that the packages ask for."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from running import ROOT

DOCKER = ROOT / "docker"
EXTRAS = {
    "cpu": {"cpu", "otel"},
    "openvino": {"cpu", "openvino", "otel"},
    "gpu": {"gpu", "otel"},
    "pt2": {"cpu", "pt2", "otel"},
}
OWN = {"foldserve-proto", "foldserve"}


def _pins(file: Path) -> dict[str, Version]:
    """Versions by name; every one must be pinned and have a hash."""
    text = file.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith(("#", "--"))]
    for line in lines:
        assert re.match(r"\S+==\S+( .*)? +--hash=sha256:[0-9a-f]{64}", line), line
    named = [re.match(r"([\w.-]+)==(\S+)", line) for line in lines]
    return {canonicalize_name(one[1]): Version(one[2]) for one in named if one}


def _tested() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def _project(distribution: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())


def _wanted(distribution: str, extras: set[str]) -> list[Requirement]:
    project = _project(distribution)["project"]
    texts = list(project["dependencies"])
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    return [one for one in map(Requirement, texts) if one.name not in OWN]


@pytest.mark.parametrize("variant", EXTRAS)
def test_versions_are_those_that_are_tested(variant: str) -> None:
    tested = _tested()
    pins = _pins(DOCKER / f"requirements-{variant}.txt")
    differing = {
        name: pin for name, pin in pins.items() if name in tested and pin.public != tested[name].public
    }
    assert not differing, "run `make locks`"


@pytest.mark.parametrize("variant", EXTRAS)
def test_everything_is_there(variant: str) -> None:
    pins = _pins(DOCKER / f"requirements-{variant}.txt")
    wanted = [*_wanted("server", EXTRAS[variant]), *_wanted("proto", set()), *_wanted("client", {"cli"})]
    for requirement in wanted:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, "run `make locks`"


def test_the_image_is_built_with_what_the_distributions_ask_for() -> None:
    pins = _pins(DOCKER / "requirements-build.txt")
    named = {
        line
        for line in (DOCKER / "requirements-build.in").read_text().splitlines()
        if not line.startswith("#")
    }
    wanted = {
        text for one in ("proto", "server", "client") for text in _project(one)["build-system"]["requires"]
    }
    assert named == wanted
    for requirement in map(Requirement, wanted):
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, "run `make locks`"
