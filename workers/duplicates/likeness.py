"""Which texts of one set are alike those of another, found without comparing each with each.

The answers are exact: two texts are alike if their digests are equal, their MinHash signatures agree in enough places,
or the cosine of their vectors' bytes is high enough; the ways below only leave out pairs that cannot be.

- MinHash: signatures are cut into so many bands that two that are alike share one whole (`minhash.band_width`), and
  bands are met by sorting.
- Vectors: in a rotation that gathers most of their length in the first 64 numbers, the cosine is at most the product of
  these plus the product of the lengths of the rest (Cauchy and Schwarz): a matrix product of 65 columns, not 512.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from workers.duplicates import minhash
from workers.duplicates.rules import DuplicateRules, RuleName
from workers.duplicates.signatures import Signatures

Rows: TypeAlias = NDArray[np.int64]
"""Numbers of texts within their set."""
NONE: Final = -1
MOST_PAIRS: Final = 1 << 19
"""Pairs that are held at once, about: more are looked at in turns."""
_SLICE = 1 << 13
_TILE = 1024
_HEAD = 64
_ROTATION_ROWS = 4096
_MARGIN = 1e-3
"""What single precision may lose of a bound on a cosine, and much more."""


@dataclass(frozen=True, slots=True)
class Bands:
    """Keys of bands in ascending order, and whose they are."""

    keys: NDArray[np.uint64]
    owners: NDArray[np.int32]

    def of(self, mask: NDArray[np.bool_]) -> Bands:
        """Those of the texts that a mask names."""
        chosen = mask[self.owners]
        return Bands(self.keys[chosen], self.owners[chosen])

    def shared(self) -> Bands:
        """Those whose key occurs more than once."""
        same = self.keys[1:] == self.keys[:-1]
        chosen = np.zeros(len(self.keys), bool)
        chosen[1:] |= same
        chosen[:-1] |= same
        return Bands(self.keys[chosen], self.owners[chosen])


@dataclass(frozen=True, slots=True)
class TextSet:
    """Some texts, ready to be compared; earlier ones first."""

    signatures: Signatures
    bands: Bands | None
    heads: NDArray[np.float32] | None
    """Texts by 65: a vector's first numbers in the rotation, and the length of the rest."""

    def __len__(self) -> int:
        return len(self.signatures)


class Likeness:
    """Finds what is alike under some rules."""

    def __init__(self, rules: DuplicateRules) -> None:
        self._rules = rules
        self._agreement = minhash.PLACES + 1 if rules.minhash is None else minhash.least_agreement(rules.minhash)
        self._rotation: NDArray[np.float32] | None = None

    def prepare(self, signatures: Signatures) -> TextSet:
        """A set of texts. The first one that is prepared sets the rotation, which costs or saves time, nothing else."""
        return TextSet(signatures, self._bands(signatures), self._heads(signatures))

    def first_alike(
        self, asked: TextSet, asking: NDArray[np.bool_], known: TextSet, knowing: NDArray[np.bool_]
    ) -> Rows:
        """For each text of `asked` in its mask, the first text of `known` in its own that is like it, or NONE."""
        first = np.full(len(asked), len(known), np.int64)
        for later, earlier in self._pairs_by_bands(asked, asking, known, knowing, first):
            np.minimum.at(first, later, earlier)
        for later, earlier in self._pairs_by_vectors(asked, asking, known, knowing, first):
            np.minimum.at(first, later, earlier)
        first[first == len(known)] = NONE
        return first

    def pairs_within(self, texts: TextSet, mask: NDArray[np.bool_]) -> tuple[Rows, Rows]:
        """All pairs (later, earlier) of a set that are alike, in order of the later one and then of the earlier one."""
        bound = np.arange(len(texts), dtype=np.int64)  # a text is compared with earlier ones alone
        found = [
            *self._pairs_by_bands(texts, mask, texts, mask, bound),
            *self._pairs_by_vectors(texts, mask, texts, mask, bound),
        ]
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        codes = np.unique(np.concatenate([later * len(texts) + earlier for later, earlier in found]))
        return codes // len(texts), codes % len(texts)

    def within_few(self, texts: TextSet, mask: NDArray[np.bool_], most: int) -> bool:
        """Whether `pairs_within` looks at no more than so many pairs."""
        if texts.heads is not None:
            return int(mask.sum()) ** 2 // 2 <= most
        if texts.bands is None:
            return True
        keys = texts.bands.of(mask).keys
        sizes = np.diff(np.flatnonzero(np.append(np.diff(keys, prepend=~keys[:1]) != 0, True)))
        return int((sizes * (sizes - 1) // 2).sum()) <= most

    def told(self, asked: Signatures, known: Signatures) -> list[tuple[RuleName, float]]:
        """Of texts that are alike, pair by pair: the first rule by which they are, and how alike (from 0 to 1)."""
        same = (asked.digest == known.digest).all(axis=1).tolist()
        nothing = [0] * len(asked)
        agreement = nothing if asked.minhash is None else _agreement(asked.minhash, known.minhash).tolist()
        cosines = [0.0] * len(asked) if asked.vector is None else _cosines(asked.vector, known.vector).tolist()
        return [
            ("exact", 1.0)
            if equal and self._rules.exact
            else ("minhash", places / minhash.PLACES)
            if places >= self._agreement
            else ("embedding", round(cosine, 4))
            for equal, places, cosine in zip(same, agreement, cosines, strict=True)
        ]

    def _bands(self, signatures: Signatures) -> Bands | None:
        if self._rules.minhash is not None and signatures.minhash is not None:
            keys = minhash.band_keys(signatures.minhash, minhash.band_width(self._rules.minhash))
        elif self._rules.embedding is None:
            keys = signatures.digest[:, :1]
        else:
            return None  # equal texts have equal vectors
        owners = np.repeat(np.arange(len(keys), dtype=np.int32), keys.shape[1])
        flat = keys.ravel()
        order = np.argsort(flat, kind="stable")
        return Bands(flat[order], owners[order])

    def _heads(self, signatures: Signatures) -> NDArray[np.float32] | None:
        if signatures.vector is None:
            return None
        if self._rotation is None:
            some = _units(signatures.vector[:_ROTATION_ROWS]).astype(np.float64)
            self._rotation = np.linalg.eigh(some.T @ some)[1][:, : -_HEAD - 1 : -1].astype(np.float32)
        heads = np.empty((len(signatures), _HEAD + 1), np.float32)
        for at in range(0, len(signatures), _SLICE):
            head = _units(signatures.vector[at : at + _SLICE]) @ self._rotation
            heads[at : at + _SLICE, :_HEAD] = head
            heads[at : at + _SLICE, _HEAD] = np.sqrt(np.maximum(0, 1 - np.square(head).sum(axis=1)))
        return heads

    def _pairs_by_bands(
        self, asked: TextSet, asking: NDArray[np.bool_], known: TextSet, knowing: NDArray[np.bool_], bound: Rows
    ) -> Iterator[tuple[Rows, Rows]]:
        """Pairs alike by digest or MinHash, the known one below `bound` of the other; a pair may come again."""
        if asked.bands is None or known.bands is None:
            return
        known_bands = known.bands.of(knowing)
        asked_bands = asked.bands.of(asking)
        if asked is known and asking is knowing:
            asked_bands = known_bands = known_bands.shared()  # else every key would meet itself
        for later, earlier in _joined(asked_bands, known_bands):
            near = earlier < bound[later]
            codes = np.unique(later[near] * len(known) + earlier[near])
            later_rows, earlier_rows = codes // len(known), codes % len(known)
            for at in range(0, len(codes), _SLICE):
                some, others = later_rows[at : at + _SLICE], earlier_rows[at : at + _SLICE]
                alike = self._agree(asked.signatures, some, known.signatures, others)
                yield some[alike], others[alike]

    def _agree(self, asked: Signatures, some: Rows, known: Signatures, others: Rows) -> NDArray[np.bool_]:
        if asked.minhash is None or known.minhash is None:
            equal: NDArray[np.bool_] = (asked.digest[some] == known.digest[others]).all(axis=1)
            return equal
        return _agreement(asked.minhash[some], known.minhash[others]) >= self._agreement

    def _pairs_by_vectors(
        self, asked: TextSet, asking: NDArray[np.bool_], known: TextSet, knowing: NDArray[np.bool_], bound: Rows
    ) -> Iterator[tuple[Rows, Rows]]:
        """As `_pairs_by_bands`, of vectors."""
        threshold = self._rules.embedding
        if asked.heads is None or known.heads is None or threshold is None:
            return
        asked_vectors, known_vectors = asked.signatures.vector, known.signatures.vector
        ask_rows, known_rows = np.flatnonzero(asking), np.flatnonzero(knowing)
        lowest = np.float32(threshold - _MARGIN)
        room = np.empty(_TILE * _TILE, np.float32)  # one for all tiles: fresh memory costs more than the product
        for at in range(0, len(ask_rows), _TILE):
            tile = ask_rows[at : at + _TILE]
            heads = asked.heads[tile]
            for start in range(0, len(known_rows), _TILE):
                others = known_rows[start : start + _TILE]
                if others[0] >= bound[tile].max():
                    break
                bounds = room[: len(tile) * len(others)].reshape(len(tile), len(others))
                np.matmul(heads, known.heads[others].T, out=bounds)
                if bounds.max() < lowest:
                    continue
                hits = np.flatnonzero(bounds >= lowest)
                later, earlier = tile[hits // len(others)], others[hits % len(others)]
                below = earlier < bound[later]
                later, earlier = later[below], earlier[below]
                for first in range(0, len(later), _SLICE):
                    some, them = later[first : first + _SLICE], earlier[first : first + _SLICE]
                    alike = _cosines(_rows(asked_vectors, some), _rows(known_vectors, them)) >= threshold
                    yield some[alike], them[alike]


def _joined(asked: Bands, known: Bands) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of owners that share a key, about `MOST_PAIRS` at a time; a pair comes once for each key that it shares."""
    if not len(known.keys):
        return
    first = np.searchsorted(known.keys, asked.keys)
    met = np.flatnonzero(known.keys[np.minimum(first, len(known.keys) - 1)] == asked.keys)
    first, keys, owners = first[met], asked.keys[met], asked.owners[met].astype(np.int64)
    counts = np.searchsorted(known.keys, keys, side="right") - first
    totals = np.cumsum(counts)
    start = 0
    while start < len(met):
        before = totals[start] - counts[start]
        end = max(start + 1, int(np.searchsorted(totals, before + MOST_PAIRS, side="right")))
        some = counts[start:end]
        within = np.arange(int(some.sum())) - np.repeat(totals[start:end] - some - before, some)
        places = np.repeat(first[start:end], some) + within
        yield np.repeat(owners[start:end], some), known.owners[places].astype(np.int64)
        start = end


def _rows(vectors: NDArray[np.int8] | None, rows: Rows) -> NDArray[np.int8]:
    if vectors is None:
        raise AssertionError("texts without vectors are compared by them")
    return vectors[rows]


def _agreement(some: NDArray[np.uint16], others: NDArray[np.uint16] | None) -> NDArray[np.int64]:
    if others is None:
        raise AssertionError("texts without signatures are compared by them")
    agreement: NDArray[np.int64] = (some == others).sum(axis=1)
    return agreement


def _cosines(some: NDArray[np.int8], others: NDArray[np.int8] | None) -> NDArray[np.float64]:
    """Cosines of pairs of codes. Sums of 512 products of bytes are below 2 to the 24th: exact in single precision."""
    if others is None:
        raise AssertionError("texts without vectors are compared by them")
    left, right = some.astype(np.float32), others.astype(np.float32)
    products, lefts, rights = (
        np.einsum("ij,ij->i", one, other).astype(np.float64)
        for one, other in ((left, right), (left, left), (right, right))
    )
    cosines: NDArray[np.float64] = products / np.maximum(np.sqrt(lefts * rights), 1)
    return cosines


def _units(codes: NDArray[np.int8]) -> NDArray[np.float32]:
    vectors = codes.astype(np.float32)
    units: NDArray[np.float32] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)
    return units
