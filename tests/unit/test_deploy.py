"""The deployment's files, read as far as that goes without a container engine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli import COMMANDS
from orchestrator.settings import Settings
from tests.support.commands import ROOT

DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".md")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_is_started_exists(path: Path) -> None:
    text = path.read_text()
    modules = re.findall(r'python"?,? "?-m"?,? "?([a-z_.]+)', text)
    assert all(find_spec(module) is not None for module in modules), modules
    assert set(re.findall(r'\["nightmill", "([a-z]+)"', text)) <= {name for _, name, _ in COMMANDS}
    assert all((ROOT / copied).exists() for copied in re.findall(r"^COPY (deploy/\S+|[a-z]+) ", text, re.MULTILINE))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_setting_is_one_that_is_read(path: Path) -> None:
    read = {f"NIGHTMILL_{name.upper()}" for name in Settings.model_fields}
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert set(re.findall(r"NIGHTMILL_[A-Z_]*[A-Z]", "\n".join(lines))) <= read


def test_compose_has_every_part_and_publishes_on_loopback_alone() -> None:
    compose: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"redis", "postgres", "migrate", "api", "scheduler", "control", "worker"}
    assert [port for service in services.values() for port in service.get("ports", ())] == ["127.0.0.1:8080:8080"]
    for name in ("api", "scheduler", "control"):
        assert services[name]["image"] == services["migrate"]["image"] == "nightmill-control"
        assert "migrate" in services[name]["depends_on"]
    assert "noeviction" in " ".join(services["redis"]["command"])
    volumes = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    assert volumes == set(compose["volumes"])


def _documents() -> Iterator[dict[str, Any]]:
    for path in sorted(DEPLOY.glob("kubernetes/*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def test_kubernetes_selectors_find_their_pods() -> None:
    deployments = [document for document in _documents() if document["kind"] == "Deployment"]
    labels = [deployment["spec"]["template"]["metadata"]["labels"] for deployment in deployments]
    assert [deployment["spec"]["selector"]["matchLabels"] for deployment in deployments] == labels
    services = [document for document in _documents() if document["kind"] == "Service"]
    assert all(service["spec"]["selector"] in labels for service in services)
    # A service named nightmill would set NIGHTMILL_PORT=tcp://… in every pod, and be taken for a setting.
    assert all(deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False for deployment in deployments)
