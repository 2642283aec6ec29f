"""What the texts of a part are compared by, in a file beside it that can be made again from the part at any time.

A file holds a record for each text (index, digest, MinHash signature, sentence vector) and ends with a digest of all
of it. One that is missing, cut short or changed is made anew.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from workers.duplicates import minhash
from workers.duplicates.rules import DuplicateRules
from workers.duplicates.texts import DIGEST_BYTES, PartTexts, digest, normalised
from workers.store import StoreError

BUILD_TEXTS = 4096
"""Texts whose signatures are made at once."""
_VECTOR_WIDTH = 512
_CHECK_BYTES = 16
_CHECK_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Signatures:
    """Some texts in ascending order of their index, by columns."""

    index: NDArray[np.int64]
    digest: NDArray[np.uint64]
    """Texts by 2."""
    minhash: NDArray[np.uint16] | None
    """Texts by 128; None where the rules have no `minhash`."""
    vector: NDArray[np.int8] | None
    """Texts by 512; None where the rules have no `embedding`."""

    def __len__(self) -> int:
        return len(self.index)

    def take(self, rows: NDArray[Any]) -> Self:  # numbers of rows, or a mask
        """Some of the texts."""
        return type(self)(
            self.index[rows],
            self.digest[rows],
            None if self.minhash is None else self.minhash[rows],
            None if self.vector is None else self.vector[rows],
        )

    @classmethod
    def joined(cls, blocks: Sequence[Signatures]) -> Self:
        """Several, one after the other; there is at least one."""
        return cls(
            np.concatenate([block.index for block in blocks]),
            np.concatenate([block.digest for block in blocks]),
            _joined([block.minhash for block in blocks]),
            _joined([block.vector for block in blocks]),
        )


class VectorEncoder(Protocol):
    """Texts to vectors: `models.text_vectors.TextVectors`, whose module brings torch with it."""

    def codes(self, texts: Sequence[str]) -> NDArray[np.int8]:
        """The texts' vectors, texts by 512, the same for a text in any company."""
        ...


class SignatureCache:
    """The signatures of parts, kept in a folder under the parts' digests.

    Several processes may use one folder at once: a file is written under another name, and renamed when it is whole.

    Args:
        folder: Made where it is missing. Files of it may be deleted at any time.
        rules: What the signatures are for. A change of threshold leaves them as they are.
        encoder: A `TextVectors` that somebody has loaded; without one it is loaded when it is first needed.
    """

    def __init__(self, folder: Path, rules: DuplicateRules, encoder: VectorEncoder | None = None) -> None:
        self._folder = folder
        fields: list[Any] = [("index", "<i8"), ("digest", "<u8", 2)]  # as numpy describes a record
        if rules.minhash is not None:
            fields.append(("minhash", "<u2", minhash.PLACES))
        if rules.embedding is not None:
            fields.append(("vector", "i1", _VECTOR_WIDTH))
        self._record = np.dtype(fields)
        self._embeds = rules.embedding is not None
        self._rules = rules
        self._vectors = encoder
        self._name: str | None = None
        self._checked: set[Path] = set()

    def ensure(self, part: PartTexts) -> Path:
        """The file of a part's signatures, made if need be: of 100,000 sentences in seconds, by `embedding` minutes.

        Raises:
            ModelError: kind MODEL, as `TextVectors`; only with `embedding`.
            StoreError: the folder is full or cannot be written.
        """
        path = self._folder / f"{part.sha256}-{self._made_by()}.signatures"
        if path in self._checked:
            return path
        try:
            if not _is_whole(path, self._record.itemsize):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._build(path, part.texts())
        except OSError as error:
            raise StoreError(f"the signatures of texts cannot be kept in {self._folder}: {error.strerror}") from error
        self._checked.add(path)
        return path

    def blocks(self, part: PartTexts, at_once: int) -> Iterator[Signatures]:
        """A part's signatures, so many texts at a time. Raises as `ensure`."""
        path = self.ensure(part)
        count = (path.stat().st_size - _CHECK_BYTES) // self._record.itemsize
        for first in range(0, count, at_once):
            # Not mapped: pages of a map would count as this process's memory for as long as nobody else wants them.
            records = np.fromfile(path, self._record, min(at_once, count - first), offset=first * self._record.itemsize)
            yield Signatures(
                records["index"].copy(),
                records["digest"].copy(),
                None if self._rules.minhash is None else records["minhash"].copy(),
                None if self._rules.embedding is None else records["vector"].copy(),
            )

    def _made_by(self) -> str:
        if self._name is None:
            # The encoder's module brings torch with it: only for those who use it.
            revision = ""
            if self._embeds:
                from models.text_vectors import REVISION  # noqa: PLC0415

                revision = REVISION
            made_by = (minhash.VERSION, self._rules.field, self._rules.minhash is not None, revision)
            self._name = hashlib.sha256(msgspec.json.encode(made_by)).hexdigest()[:16]
        return self._name

    def _build(self, path: Path, texts: Iterable[tuple[int, str]]) -> None:
        temporary = path.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                self._write(file, texts)
            os.replace(temporary, path)  # noqa: PTH105 - the word for it
        finally:
            temporary.unlink(missing_ok=True)

    def _write(self, file: IO[bytes], texts: Iterable[tuple[int, str]]) -> None:
        check = hashlib.blake2b(digest_size=_CHECK_BYTES)
        last = -1
        remaining = iter(texts)
        while some := list(itertools.islice(remaining, BUILD_TEXTS)):
            plain = [normalised(text) for _, text in some]
            records = np.empty(len(some), self._record)
            records["index"] = [index for index, _ in some]
            if (np.diff(records["index"], prepend=last) <= 0).any():
                raise AssertionError("the texts of a part are not in ascending order of their index")
            last = int(records["index"][-1])
            records["digest"] = np.frombuffer(b"".join(map(digest, plain)), "<u8").reshape(-1, DIGEST_BYTES // 8)
            if self._rules.minhash is not None:
                records["minhash"] = minhash.signatures(plain)
            if self._embeds:
                records["vector"] = self._encoder().codes(plain)
            data = records.tobytes()
            check.update(data)
            file.write(data)
        file.write(check.digest())

    def _encoder(self) -> VectorEncoder:
        if self._vectors is None:
            from models.text_vectors import TextVectors  # noqa: PLC0415

            self._vectors = TextVectors()
        return self._vectors


def _is_whole(path: Path, record_bytes: int) -> bool:
    try:
        with path.open("rb") as file:
            left = os.fstat(file.fileno()).st_size - _CHECK_BYTES
            if left < 0 or left % record_bytes:
                return False
            check = hashlib.blake2b(digest_size=_CHECK_BYTES)
            while left:
                block = file.read(min(_CHECK_BLOCK, left))
                check.update(block)
                left -= len(block)
            return check.digest() == file.read()
    except FileNotFoundError:
        return False


def _joined(columns: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:  # of either kind
    known = [column for column in columns if column is not None]
    return np.concatenate(known) if known else None
