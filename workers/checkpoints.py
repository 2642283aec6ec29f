"""Checkpoints of a training job in the store.

A checkpoint is a folder `STEP-EXECUTION/` of immutable objects: tensors and state, and a small JSON with their digests
that is written last and makes it one. Its execution alone writes to it, so one that lost its lease overwrites nothing
of another's. And each execution keeps a pointer, `EXECUTION.json`, to its newest one: whoever goes on knows which
executions came before, and so finds it even where a listing does not show it yet.

Which one to go on from is the highest step that is whole, whatever execution wrote it: a step follows from the one
before it and from the job alone.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence

import msgspec

from models.errors import FailureKind, ModelError
from models.training_run import SavedState
from workers.keys import checkpoints_prefix
from workers.store import MissingObjectError, ObjectStore, StoreError

logger = logging.getLogger(__name__)
KEPT = 2
"""Checkpoints of a job that stay."""
LOOKS = 3
"""How often it is looked anew where those that were seen have been pruned meanwhile."""
TENSORS, STATE, COMMIT = "state.safetensors", "state.json", "complete.json"
_NAME = re.compile(r"(\d{9,})-([0-9A-Za-z]+)")
_PART = re.compile(r"\d{6,}-\d{4,}-([0-9A-Za-z]+)\.jsonl")


class _File(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class _Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a checkpoint whole."""

    step: int
    seconds: float
    data: str
    """Digest of the data that was trained on."""
    files: dict[str, _File]


class _Pointer(msgspec.Struct, frozen=True):
    name: str


class StoredCheckpoints:
    """The checkpoints of one job, as one execution sees them.

    Args:
        store: Nightmill's own.
        job: The job.
        execution: Whose checkpoints are written.
        earlier: Executions that may have left some.
        data: Digest of the data: a training does not go on with other data than it began with.
    """

    def __init__(self, store: ObjectStore, job: str, execution: str, *, earlier: Sequence[str], data: str) -> None:
        self._store = store
        self._prefix = checkpoints_prefix(job)
        self._execution = execution
        self._earlier = earlier
        self._data = data
        self._own: list[str] = []

    def latest(self) -> SavedState | None:
        """The newest that is whole.

        Raises:
            ModelError: kind MODEL, code `source_changed`: it is of other data.
            StoreError: the store cannot be reached.
        """
        for _ in range(LOOKS):
            names = self._names()
            for name in names:
                found = self._read(name)
                if found is not None:
                    return found
            if not names:
                break
        return None

    def save(self, saved: SavedState) -> None:
        """Keep one, then let go of those before the last two.

        Raises:
            StoreError: the store failed; what there was is as it was.
        """
        name = f"{saved.step:09}-{self._execution}"
        if name in self._own:
            return
        files = {TENSORS: saved.tensors, STATE: saved.state}
        for file, content in files.items():
            self._store.put(f"{self._prefix}{name}/{file}", content)
        commit = _Commit(
            step=saved.step,
            seconds=saved.seconds,
            data=self._data,
            files={file: _File(len(content), _sha256(content)) for file, content in files.items()},
        )
        self._put(f"{name}/{COMMIT}", commit)
        self._own.append(name)
        self._put(f"{self._execution}.json", _Pointer(name))
        try:
            self._prune()
        except StoreError as error:
            logger.warning("old checkpoints stay for now: %s", error)

    def _put(self, name: str, content: msgspec.Struct) -> None:
        self._store.put(self._prefix + name, msgspec.json.encode(content), content_type="application/json")

    def _names(self) -> list[str]:
        """Names of checkpoints, the newest first: those that are listed, and those that earlier executions point to."""
        names = set(self._listed())
        for execution in self._earlier:
            try:
                names.add(msgspec.json.decode(self._store.get(f"{self._prefix}{execution}.json"), type=_Pointer).name)
            except (MissingObjectError, msgspec.MsgspecError):
                continue  # it died before its first one
        return sorted((name for name in names if _NAME.fullmatch(name)), reverse=True)

    def _listed(self) -> list[str]:
        """Those with a commit, as far as a listing shows them."""
        suffix = f"/{COMMIT}"
        keys = [key.removeprefix(self._prefix) for key in self._store.list(self._prefix)]
        return [key.removesuffix(suffix) for key in keys if key.endswith(suffix)]

    def _read(self, name: str) -> SavedState | None:
        """A checkpoint; None where it is not whole, or is gone."""
        try:
            commit = msgspec.json.decode(self._store.get(f"{self._prefix}{name}/{COMMIT}"), type=_Commit)
            content = {file: self._store.get(f"{self._prefix}{name}/{file}") for file in commit.files}
        except (MissingObjectError, msgspec.MsgspecError):
            return None
        if set(content) != {TENSORS, STATE}:
            return None
        if any(_sha256(content[file]) != known.sha256 for file, known in commit.files.items()):
            logger.warning("the checkpoint %s is damaged and is passed over", name)
            return None
        if commit.data != self._data:
            raise ModelError(
                FailureKind.MODEL,
                "source_changed",
                f"the data are not those that the first {commit.step} steps were made with; a training does not go "
                "on with others: submit the job again",
            )
        return SavedState(step=commit.step, seconds=commit.seconds, tensors=content[TENSORS], state=content[STATE])

    def _prune(self) -> None:
        names = sorted({*self._listed(), *self._own}, reverse=True)
        for name in names[KEPT:]:
            if name == self._own[-1]:
                continue  # its pointer names it
            # The commit goes first: what is left of it is no checkpoint.
            for file in (COMMIT, TENSORS, STATE):
                self._store.delete(f"{self._prefix}{name}/{file}")
            if name in self._own:
                self._own.remove(name)


def earlier_executions(parts: Sequence[str]) -> list[str]:
    """The executions whose parts have these keys."""
    found = (_PART.fullmatch(key.rpartition("/")[2]) for key in parts)
    return [match[1] for match in found if match is not None]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
