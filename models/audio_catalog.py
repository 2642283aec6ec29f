"""Which speech models can be asked for, which voices they have, and how they are opened.

As `models.catalog`: imported by the control plane, so engines are named here by string.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any

from models import catalog
from models.audio import AudioSettings
from models.backend import AudioBackend
from models.catalog import EngineEntry
from models.errors import FailureKind, ModelError, UnknownModelError
from models.spec import EchoOptions

AUDIO_ENGINES: dict[str, EngineEntry] = {
    "echo": EngineEntry(backend="models.backends.echo_audio:EchoAudio", needs=(), install=""),
    "hibari": EngineEntry(
        backend="models.backends.hibari:HibariBackend",
        needs=("onnxruntime", "hibari"),
        install="pip install 'nightmill[worker]'",
    ),
}
"""Each back-end is made with the echo model's options, or None."""
_KEY = "audio:"


@dataclass(frozen=True, kw_only=True)
class AudioModelEntry:
    """A speech model, and what it can be asked for."""

    name: str
    description: str
    engine: str
    license: str
    voices: dict[str, str] = field(default_factory=dict)
    """Each voice with its language, the default first; where there are none, any name will do."""


AUDIO_MODELS: dict[str, AudioModelEntry] = {
    entry.name: entry
    for entry in (
        AudioModelEntry(
            name="hibari-tts",
            description="speaks American English, 24 kHz, many times as fast as one listens on a single core",
            engine="hibari",
            license="Apache-2.0",
            voices={"heart": "en-US"},
        ),
        AudioModelEntry(
            name="echo",
            description="plays a tone for each word of its prompt; for tests and benchmarks",
            engine="echo",
            license="Apache-2.0",
        ),
    )
}


class UnknownVoiceError(ModelError):
    """A model has no such voice, or none of that language; `param` is the setting that asks for it."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(FailureKind.MODEL, "unknown_voice", message)
        self.param = param

    def __reduce__(self) -> tuple[type[UnknownVoiceError], tuple[str, str]]:  # type: ignore[override]
        return type(self), (self.message, self.param)


def list_audio_models() -> list[AudioModelEntry]:
    """Every speech model."""
    return list(AUDIO_MODELS.values())


def check_audio_model(name: str, settings: AudioSettings) -> None:
    """Say whether a model can be asked for, in these settings; cheap, and imports no engine.

    Raises:
        UnknownModelError: there is no such speech model, with the nearest right names.
        UnknownVoiceError: it has no such voice, or none of that language.
    """
    voices = _entry(name).voices
    if not voices:
        return
    spoken = ", ".join(f"{voice} ({language})" for voice, language in voices.items())
    if settings.voice is not None and settings.voice not in voices:
        near = catalog.nearest_names(settings.voice, tuple(voices))
        raise UnknownVoiceError(f"{name} has no voice {settings.voice!r}{near}; it has {spoken}", "voice")
    language = voices[settings.voice or next(iter(voices))]
    if settings.language is not None and settings.language.lower() not in {language.lower(), language[:2].lower()}:
        raise UnknownVoiceError(
            f"{name} speaks no {settings.language!r}, or not with this voice; it has {spoken}", "language"
        )


def missing_packages(engine: str) -> tuple[str, ...]:
    """Importable names that an engine needs and that are not installed here."""
    return tuple(name for name in AUDIO_ENGINES[engine].needs if importlib.util.find_spec(name) is None)


def engine_key(name: str) -> str:
    """What a worker knows a model's engine by, beside the model's name.

    Raises:
        UnknownModelError: there is no such speech model.
        ModelError: kind MODEL, code `engine_not_installed`: what is missing and how to install it.
    """
    engine = _entry(name).engine
    missing = missing_packages(engine)
    if missing:
        raise ModelError(
            FailureKind.MODEL,
            "engine_not_installed",
            f"the engine {engine!r} is not installed here ({', '.join(missing)} missing): "
            f"{AUDIO_ENGINES[engine].install}",
        )
    return _KEY + engine


def is_audio_key(key: str) -> bool:
    """Whether a key is that of a speech engine."""
    return key.startswith(_KEY)


def needs_place(name: str) -> bool:
    """Whether the model takes a place on a machine: a GPU, or the cores of a host without one."""
    return _entry(name).engine != "echo"


def open_audio_backend(name: str, *, options: EchoOptions | None = None) -> AudioBackend:
    """The back-end that will hold a model. Its engine is imported when it is loaded.

    Args:
        name: a name from `list_audio_models`.
        options: faults of the echo model, for requests that bring none of their own.

    Raises:
        UnknownModelError, ModelError: as `engine_key`.
    """
    engine = engine_key(name).removeprefix(_KEY)
    module, _, attribute = AUDIO_ENGINES[engine].backend.partition(":")
    backend: Any = getattr(importlib.import_module(module), attribute)  # a class that is known by its name alone
    opened: AudioBackend = backend(options) if engine == "echo" else backend()
    return opened


def _entry(name: str) -> AudioModelEntry:
    entry = AUDIO_MODELS.get(name)
    if entry is None:
        if name in catalog.MODELS:
            raise UnknownModelError(
                f"the model {name!r} writes text; for speech take {', '.join(AUDIO_MODELS)}", "wrong_kind"
            )
        near = catalog.nearest_names(name, tuple(AUDIO_MODELS))
        raise UnknownModelError(
            f"there is no speech model {name!r}{near}. A speech model is one of {', '.join(sorted(AUDIO_MODELS))}"
        )
    return entry
