"""MinHash signatures of texts: the share of places in which two agree estimates how much of their texts is common.

The common share is the Jaccard index of their shingles: Broder, 1997, "On the resemblance and containment of
documents", https://doi.org/10.1109/SEQUEN.1997.666900. One hash of each shingle serves all places: it names the place,
and the lowest hash that falls there is kept (Li, Owen, Zhang, 2012, "One Permutation Hashing",
https://arxiv.org/abs/1208.1259). A place where none fell takes another's, found by probing in an order that hangs on
the place alone (Shrivastava, 2017, "Optimal Densification for Fast and Accurate Minwise Hashing",
https://arxiv.org/abs/1703.04664). So a text costs its length, not its length times the number of places.

Everything is integer arithmetic: a text has the same signature on any machine, in any company.
"""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

PLACES: Final = 128
"""Numbers in a signature. The estimate of a share s is off by about sqrt(s (1 - s) / 128): 0.03 at 0.85."""
SPACED_GRAM, UNSPACED_GRAM = 4, 2
"""Characters in a shingle; fewer in scripts that write no spaces, where a character says more."""
VERSION: Final = 1
"""Of the signatures: two versions cannot be compared."""

_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # Chinese characters, and below
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),  # Hangul: a syllable each
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_SEPARATOR, _LETTER, _UNSPACED_LETTER = 0, 1, 2
_CHUNK_CHARACTERS = 1 << 18  # so that what is worked on stays in a core's cache
_WEIGHTS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93)
_NOTHING = np.uint32(0xFFFF_FFFF)
_PROBES = 48


def least_agreement(threshold: float) -> int:
    """In how many places two signatures must agree for their texts to be alike."""
    return math.ceil(threshold * PLACES)


def band_width(threshold: float) -> int:
    """The most places in a band such that two signatures that are alike are sure to agree in all of some band.

    They differ in `PLACES - least_agreement` places at most; with one band more than that, one is left untouched.
    """
    return PLACES // (PLACES - least_agreement(threshold) + 1)


def band_keys(signatures: NDArray[np.uint16], width: int) -> NDArray[np.uint64]:
    """A 64-bit key of each band of each signature, rows by bands; keys of different bands are not mistaken."""
    bands = PLACES // width
    columns = signatures[:, : bands * width].reshape(len(signatures), bands, width).astype(np.uint64)
    keys = np.broadcast_to(_mixed(np.arange(1, bands + 1, dtype=np.uint64)), columns.shape[:2]).copy()
    for place in range(width):
        keys = (keys ^ columns[:, :, place]) * np.uint64(_WEIGHTS[0])
        keys ^= keys >> np.uint64(29)
    return keys


def signatures(texts: Sequence[str]) -> NDArray[np.uint16]:
    """The signatures of normalised texts (`workers.duplicates.texts.normalised`), texts by `PLACES`.

    Punctuation and the width of spaces do not count, unless a text consists of nothing else.
    """
    found = np.zeros((len(texts), PLACES), np.uint16)
    for first, end in _chunks(texts):
        found[first:end] = _chunk_signatures(texts[first:end])
    return found


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    first = characters = 0
    for at, text in enumerate(texts):
        if characters and characters + len(text) > _CHUNK_CHARACTERS:
            yield first, at
            first, characters = at, 0
        characters += len(text) + 1
    if first < len(texts):
        yield first, len(texts)


def _chunk_signatures(texts: Sequence[str]) -> NDArray[np.uint16]:
    owner, hashes = _shingles(texts)
    # Sorted by text, place and hash, the first of each text and place is the lowest.
    place = hashes >> np.uint64(57)
    ordered = owner.astype(np.uint64) << np.uint64(39) | place << np.uint64(32) | hashes & np.uint64(_NOTHING)
    ordered.sort()
    slots = (ordered >> np.uint64(32)).astype(np.int64)
    leading = np.flatnonzero(np.diff(slots, prepend=-1))
    lowest = np.full(len(texts) * PLACES, _NOTHING, np.uint32)
    lowest[slots[leading]] = np.minimum(ordered[leading].astype(np.uint32), _NOTHING - 1)
    return _densified(lowest.reshape(-1, PLACES)).astype(np.uint16)


def _shingles(texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Of each shingle the number of its text, ascending, and its hash. An empty text has none, any other has one."""
    joined = "\n" + "\n".join(texts)
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[codes]
    owner = np.cumsum(codes == ord("\n")) - 1
    letters = kinds != _SEPARATOR
    # Of what separates words one sign is kept, the one before a word: it stands for a space.
    kept = letters | np.append(kinds[1:] == _LETTER, False)
    bare = np.bincount(owner, letters, len(texts)) == 0
    if bare.any():
        kept |= bare[owner] & (codes != ord("\n"))
        letters |= bare[owner]
    codes = np.where(letters, codes, np.uint32(ord(" ")))[kept].astype(np.uint64)
    owner, unspaced = owner[kept], kinds[kept] == _UNSPACED_LETTER
    hashes = codes * np.uint64(_WEIGHTS[0])
    whole = np.ones(len(codes), bool)
    for step in range(1, SPACED_GRAM):
        # A shingle ends with its text.
        within = np.zeros(len(codes), bool)
        within[:-step] = owner[step:] == owner[:-step]
        part = np.zeros(len(codes), np.uint64)
        part[:-step] = codes[step:] * np.uint64(_WEIGHTS[step])
        if step >= UNSPACED_GRAM:
            part[unspaced] = 0
            whole &= within | unspaced
        else:
            whole &= within
        part[~within] = 0
        hashes += part
    whole |= np.diff(owner, prepend=-1) != 0
    return owner[whole], _mixed(hashes[whole])


def _densified(lowest: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Each empty place filled from one that is not; rows without any become 0."""
    filled = lowest.copy()
    filled[(lowest == _NOTHING).all(axis=1)] = 0
    for probe in range(_PROBES + PLACES):
        rows = np.flatnonzero((filled == _NOTHING).any(axis=1))
        if not len(rows):
            break
        # Where chance has not found one, the next to the right is taken.
        source = _probes()[probe] if probe < _PROBES else (np.arange(PLACES) + probe - _PROBES + 1) % PLACES
        some = filled[rows]
        filled[rows] = np.where(some == _NOTHING, lowest[rows][:, source], some)
    return filled


@functools.cache
def _probes() -> NDArray[np.int64]:
    """Where an empty place looks at its k-th try, tries by places."""
    return (
        (_mixed(np.arange(1, _PROBES * PLACES + 1, dtype=np.uint64)) >> np.uint64(57))
        .astype(np.int64)
        .reshape(-1, PLACES)
    )


@functools.cache
def _kinds() -> NDArray[np.uint8]:
    """What each character is: a separator (spaces, punctuation), a letter or the like, or one of an unspaced script."""
    kinds = np.fromiter(
        (unicodedata.category(chr(code))[0] not in "PZC" for code in range(0x110000)), np.uint8, 0x110000
    )
    for first, last in _UNSPACED:
        kinds[first : last + 1] *= _UNSPACED_LETTER
    return kinds


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every bit of the result depends on every bit of the value: the finaliser of SplitMix64 (Steele et al., 2014)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
