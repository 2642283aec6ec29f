"""What a fresh interpreter loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

ENGINES = ("torch", "ray", "vllm", "diffusers", "transformers")


def _loaded(statement: str) -> set[str]:
    script = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module", ["orchestrator.api.app", "orchestrator.cli.running", "orchestrator.embedded", "orchestrator.planning"]
)
def test_the_control_plane_loads_no_engine(module: str) -> None:
    assert not _loaded(f"import {module}").intersection(ENGINES)


def test_help_loads_neither_sql_nor_http_nor_pydantic() -> None:
    loaded = _loaded("import orchestrator.cli")
    assert not loaded.intersection({"sqlalchemy", "httpx", "pydantic", "rich", "jinja2", "pyarrow", "fastapi"})
