"""What a job file says of speech: the field that `JobSpec` has for it, and what goes with it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from models.audio import AudioSettings
from workers.contracts import AudioWork


class AudioFields(BaseModel):
    """The field of a job that is for speech alone; a job of another kind leaves it at its default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    audio: AudioSettings = AudioSettings()

    def audio_work(self, prompt: str | None, *, provenance: bool) -> AudioWork:
        """The part of the job's work that is about speech."""
        return AudioWork(
            prompt=prompt or "",
            settings=self.audio.model_dump(mode="json", exclude_defaults=True),
            provenance=provenance,
        )


def refuse_audio_fields(fields: AudioFields, kind: str) -> None:
    """Raise ValueError where a job of another kind sets a field that is for speech."""
    if fields.audio != AudioSettings():
        raise ValueError(f"audio is for speech, and the job is of kind {kind}; set kind: audio")


def shape_of(fields: AudioFields) -> str:
    """What kind of work an item is, for its speed."""
    return f"speech at speed {fields.audio.speed:g}"
