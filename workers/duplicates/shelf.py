"""Accepted texts, on disk: set by set in the order in which they were accepted, read back one set at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.duplicates.likeness import Bands, TextSet
from workers.duplicates.signatures import Signatures
from workers.store import StoreError


@dataclass(frozen=True, slots=True)
class Shelved:
    """A set of accepted texts, and of which job each is."""

    texts: TextSet
    jobs: NDArray[np.int32]


class Shelf:
    """Sets of texts below a folder. What an earlier run left in it is removed first.

    Raises:
        StoreError: the folder is full or cannot be written; by any method.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        except OSError as error:
            raise self._full(error) from error

    def put(self, texts: TextSet, jobs: NDArray[np.int32]) -> None:
        """Add a set behind the others."""
        signatures, bands = texts.signatures, texts.bands
        arrays = {
            "index": signatures.index,
            "digest": signatures.digest,
            "minhash": signatures.minhash,
            "vector": signatures.vector,
            "keys": None if bands is None else bands.keys,
            "owners": None if bands is None else bands.owners,
            "heads": texts.heads,
            "jobs": jobs,
        }
        place = self._folder / f"{self._count:06d}"
        try:
            place.mkdir()
            for name, array in arrays.items():
                if array is not None:
                    np.save(place / f"{name}.npy", array, allow_pickle=False)
        except OSError as error:
            raise self._full(error) from error
        self._count += 1

    def __iter__(self) -> Iterator[Shelved]:
        for number in range(self._count):
            place = self._folder / f"{number:06d}"
            keys, owners = self._array(place, "keys"), self._array(place, "owners")
            # Mapped, since of most sets few rows are looked at, and unmapped again with the set.
            signatures = Signatures(
                np.load(place / "index.npy"),
                np.load(place / "digest.npy", mmap_mode="r"),
                self._array(place, "minhash", mapped=True),
                self._array(place, "vector", mapped=True),
            )
            bands = None if keys is None or owners is None else Bands(keys, owners)
            yield Shelved(TextSet(signatures, bands, self._array(place, "heads")), np.load(place / "jobs.npy"))

    def close(self) -> None:
        """Remove what is on disk."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _array(place: Path, name: str, *, mapped: bool = False) -> NDArray[Any] | None:  # of any type
        path = place / f"{name}.npy"
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False) if path.exists() else None

    def _full(self, error: OSError) -> StoreError:
        return StoreError(f"no room to compare texts in {self._folder}: {error.strerror or error}")
