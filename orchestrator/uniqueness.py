"""Whether the ids of a job's rows are distinct, told without holding them.

Each id leaves its 64-bit hash and its row number. Hashes that occur twice are candidates; the caller looks whether
their ids are truly equal, since two ids may share a hash. Memory stays constant: beyond a buffer, the pairs go to
files on disk, split by hash, and each file is sorted by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.store import StoreError

_BUFFER = 1 << 20
_FILES = 64
_MOST_PAIRS = 1000
_Pairs: TypeAlias = NDArray[np.int64]


class Uniqueness:
    """Collects ids in row order, and then names the rows whose ids may be equal.

    Args:
        scratch: An existing folder for the overflow; what is written there is deleted by `close`.
        buffer: Rows that are kept in memory.
    """

    def __init__(self, scratch: Path, *, buffer: int = _BUFFER) -> None:
        self._scratch = scratch
        self._buffer = buffer
        self._hashes: list[_Pairs] = []
        self._held = 0
        self._first = 0
        self._files: list[Path] = []

    @property
    def rows(self) -> int:
        """How many ids have been added."""
        return self._first + self._held

    def add(self, ids: list[str]) -> None:
        """Take the ids of the next rows.

        Raises:
            StoreError: the scratch folder is full.
        """
        # Python's own string hash is 64 bits wide, keyed by a secret of the process, and as fast as can be.
        self._hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))
        self._held += len(ids)
        if self._held >= self._buffer:
            self._spill()

    def candidates(self) -> list[tuple[int, int]]:
        """Pairs of rows (earlier, later) whose ids share a hash, by the later row; the first thousand of them.

        A thousand pairs that all share a hash by chance alone do not occur: the hash is keyed and 64 bits wide.
        """
        if not self._files:
            ordered = np.sort(self._together())
            # As nearly always: sorting hashes alone is several times as fast as keeping their rows beside them.
            distinct = not (ordered[1:] == ordered[:-1]).any()
            return [] if distinct else _first_pairs([_repeated(self._pairs())])
        self._spill()
        return _first_pairs(
            _repeated(np.fromfile(file, np.int64).reshape(-1, 2)) for file in self._files if file.exists()
        )

    def close(self) -> None:
        """Delete what was written."""
        for file in self._files:
            file.unlink(missing_ok=True)

    def _together(self) -> NDArray[np.int64]:
        return np.concatenate(self._hashes) if self._hashes else np.empty(0, np.int64)

    def _pairs(self) -> _Pairs:
        hashes = self._together()
        rows = np.arange(self._first, self._first + len(hashes), dtype=np.int64)
        return np.column_stack((hashes, rows))

    def _spill(self) -> None:
        pairs = self._pairs()
        self._files = self._files or [self._scratch / f"ids-{number:02d}" for number in range(_FILES)]
        places = pairs[:, 0] & (_FILES - 1)
        for number, file in enumerate(self._files):
            chosen = pairs[places == number]
            if len(chosen):
                self._append(file, chosen)
        self._first += len(pairs)
        self._hashes, self._held = [], 0

    def _append(self, file: Path, pairs: _Pairs) -> None:
        try:
            with file.open("ab") as opened:
                opened.write(pairs.tobytes())
        except OSError as error:
            raise StoreError(f"no room for the check of ids in {self._scratch}: {error.strerror or error}") from error


def _repeated(pairs: _Pairs) -> _Pairs:
    hashes, rows = pairs[:, 0], pairs[:, 1]
    # Stable: rows with the same hash stay in the order of the source.
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    return np.column_stack((rows[order[same]], rows[order[same + 1]]))


def _first_pairs(found: Iterable[_Pairs]) -> list[tuple[int, int]]:
    first = np.empty((0, 2), np.int64)
    for pairs in found:
        together = np.concatenate((first, pairs))
        first = together[np.argsort(together[:, 1], kind="stable")][:_MOST_PAIRS]
    return [(int(earlier), int(later)) for earlier, later in first]
