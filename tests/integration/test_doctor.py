"""What the doctor says of services that are there, that are not, and that are set up badly."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from orchestrator import doctor
from orchestrator.doctor import Finding, examine
from orchestrator.settings import Settings
from tests.support.certificates import Authority


def _found(settings: Settings) -> dict[str, Finding]:
    return {finding.about: finding for finding in examine(settings)}


def test_real_services_are_fine(database_url: str, store_url: str, redis_url: str, tmp_path: Path) -> None:
    given = Settings(data_dir=tmp_path, database_url=database_url, store_url=store_url, redis_url=redis_url)
    found = _found(given)
    assert {found[about].state for about in ("python", "service", "redis", "database", "store", "ray")} == {"ok"}
    assert store_url in found["store"].detail


def test_nothing_yet_is_no_problem(tmp_path: Path) -> None:
    found = _found(Settings(data_dir=tmp_path / "new"))
    assert {found[about].state for about in ("redis", "database", "store", "service")} == {"ok"}
    assert not (tmp_path / "new").exists()


def test_a_redis_that_drops_messages_is_a_problem(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as server:
        server.config_set("maxmemory-policy", "allkeys-lru")
        try:
            finding = _found(Settings(data_dir=tmp_path, redis_url=redis_url))["redis"]
        finally:
            server.config_set("maxmemory-policy", "noeviction")
    assert (finding.state, "allkeys-lru" in finding.detail) == ("problem", True)
    assert "noeviction" in str(finding.mend)


def test_what_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    found = _found(
        Settings(
            data_dir=tmp_path,
            database_url="postgresql://u:hush@127.0.0.1:1/n",
            redis_url="redis://:hush@127.0.0.1:1/0",
            store_url="file:///proc/nightmill",
            ray_address="127.0.0.1:1",
            api_url="http://u:hush@127.0.0.1:1",
        )
    )
    away = [found[about] for about in ("database", "redis", "store", "ray", "service")]
    assert {finding.state for finding in away} == {"problem"}
    assert all(finding.mend for finding in away)
    assert "hush" not in repr(found)
    assert "127.0.0.1:1" in found["redis"].detail


def test_a_database_without_the_schema_is_a_problem(empty_database_url: str, tmp_path: Path) -> None:
    finding = _found(Settings(data_dir=tmp_path, database_url=empty_database_url))["database"]
    assert (finding.state, "nightmill migrate" in str(finding.mend)) == ("problem", True)


def test_no_engine_and_short_memory_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.catalog.installed_engines", lambda: ("echo",))
    monkeypatch.setattr(doctor, "LEAST_MEMORY", 1 << 60)
    monkeypatch.setattr(doctor, "LEAST_DISK", 1 << 60)
    found = _found(Settings(data_dir=tmp_path))
    assert (found["engines"].state, found["memory"].state, found["disk"].state) == ("problem", "warning", "warning")


def test_packages_that_break_beside_torch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "UNUSED_BESIDE_TORCH", ("json",))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "2.13.0+cpu")
    finding = _found(Settings(data_dir=tmp_path))["packages"]
    assert (finding.state, finding.mend) == ("warning", "pip uninstall json (Nightmill does not use them)")


def test_the_safety_policy_is_read(tmp_path: Path) -> None:
    file = tmp_path / "safety.yaml"
    file.write_text("default: {threshold: 0.8}\ntenants: {acme: {deny: [weapon, knife]}}\n")
    assert _found(Settings(data_dir=tmp_path / "new"))["safety"].state == "ok"
    finding = _found(Settings(data_dir=tmp_path / "new", safety_file=file))["safety"]
    assert finding.state == "ok"
    assert "the default: threshold 0.8, 0 denied phrases; acme: threshold 0.8, 2 denied phrases" in finding.detail
    assert "weapon" not in finding.detail
    file.write_text("default: {threshold: 8}\n")
    finding = _found(Settings(data_dir=tmp_path / "new", safety_file=file))["safety"]
    assert (finding.state, "safety.yaml, line 1: default.threshold: 8" in finding.detail) == ("problem", True)


def test_the_certificate_is_tried_and_its_end_told(tmp_path: Path) -> None:
    def finding(days: float) -> Finding:
        files = authority.issue(days=days)
        given = Settings(data_dir=tmp_path / "new", c2pa_certificate=files.certificate, c2pa_key=files.key)
        return _found(given)["c2pa"]

    authority = Authority.found(tmp_path)
    assert _found(Settings(data_dir=tmp_path / "new"))["c2pa"].state == "ok"
    assert finding(20).state == "ok"
    assert "renewed" in str(finding(3).mend)
    assert "has expired" in finding(-1).detail
    assert finding(-1).state == "problem"
