"""Which texts stay: what a plain loop over all of them says, however they are cut, and however often it is done."""

from __future__ import annotations

import hashlib
import itertools
import random
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.text_vectors import TextVectors
from workers.duplicates import likeness, minhash
from workers.duplicates.accept_pass import Rejected, run
from workers.duplicates.rules import DuplicateRules
from workers.duplicates.signatures import SignatureCache
from workers.duplicates.texts import PartTexts, normalised

NO_ROWS = np.empty(0, np.int64)
WORDS = [
    "my",
    "parcel",
    "is",
    "late",
    "red",
    "blue",
    "kettle",
    "jacket",
    "the",
    "a",
    "broken",
    "lost",
    "refund",
    "please",
    "today",
    "never",
]


def _parts(texts: Sequence[tuple[int, str]], cuts: Sequence[int], job: str = "") -> list[PartTexts]:
    edges = [0, *sorted(cuts), len(texts)]
    pieces = [texts[first:end] for first, end in itertools.pairwise(edges) if end > first]
    return [
        PartTexts(hashlib.sha256(repr(piece).encode()).hexdigest(), lambda piece=piece: piece, job)  # type: ignore[misc]
        for piece in pieces
    ]


def _passed(
    texts: Sequence[tuple[int, str]],
    rules: DuplicateRules,
    *,
    cuts: Sequence[int] = (),
    fixed: Sequence[int] = (),
    against: Sequence[PartTexts] = (),
    block: int = 1 << 16,
) -> list[Rejected]:
    with tempfile.TemporaryDirectory() as folder:
        cache = SignatureCache(Path(folder, "cache"), rules)
        scratch = Path(folder, "scratch")
        found = run(
            _parts(texts, cuts),
            rules,
            fixed=np.array(fixed, np.int64),
            scratch=scratch,
            cache=cache,
            against=against,
            block=block,
        )
        rejected = list(found)
        assert not scratch.exists()
        return rejected


def _by_hand(texts: Sequence[tuple[int, str]], rules: DuplicateRules, fixed: Sequence[int] = ()) -> list[Rejected]:
    """The same by comparing every text with every accepted one before it."""
    plain = {index: normalised(text) for index, text in texts}
    signatures = dict(zip(plain, minhash.signatures(list(plain.values())), strict=True))
    codes = {}
    if rules.embedding is not None:
        codes = dict(zip(plain, TextVectors().codes(list(plain.values())).astype(np.int64), strict=True))

    def alike(one: int, other: int) -> tuple[str, float] | None:
        if rules.exact and plain[one] == plain[other]:
            return "exact", 1.0
        places = int((signatures[one] == signatures[other]).sum())
        if rules.minhash is not None and places >= rules.minhash * minhash.PLACES:
            return "minhash", places / minhash.PLACES
        if rules.embedding is not None:
            left, right = codes[one], codes[other]
            cosine = float(left @ right) / float(np.sqrt(float(left @ left) * float(right @ right)))
            if cosine >= rules.embedding:
                return "embedding", round(cosine, 4)
        return None

    accepted = [index for index in plain if index in fixed]
    rejected = []
    for index in plain:
        if index in fixed:
            continue
        likes = ((other, alike(index, other)) for other in accepted)
        first = next(((other, like) for other, like in likes if like is not None), None)
        if first is None:
            accepted.append(index)
        else:
            other, (rule, similarity) = first
            rejected.append(Rejected(index, rule, other, similarity))  # type: ignore[arg-type]
    return rejected


def _chain(count: int, seed: int) -> list[tuple[int, str]]:
    """Texts each of which is made from an earlier one, so that what is like what hangs on what was accepted."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=25))]
    while len(texts) < count:
        words = rng.choice(texts).split()
        for _ in range(rng.choice([0, 0, 1, 1, 2, 6])):
            words[rng.randrange(len(words))] = rng.choice(WORDS) + rng.choice(["", "s", "x"])
        texts.append(" ".join(words))
    return [(3 * number, text) for number, text in enumerate(texts)]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rules=st.sampled_from([(True, 0.85), (True, 0.7), (False, 0.85), (True, None), (True, 1.0)]),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    fixed=st.sets(st.integers(0, 59), max_size=12),
    block=st.sampled_from([5, 17, 1 << 16]),
)
def test_the_outcome_is_that_of_comparing_all(
    seed: int, rules: tuple[bool, float | None], cuts: list[int], fixed: set[int], block: int
) -> None:
    texts = _chain(60, seed)
    chosen = DuplicateRules(exact=rules[0], minhash=rules[1], embedding=None)
    kept = sorted(3 * number for number in fixed)
    assert _passed(texts, chosen, cuts=cuts, fixed=kept, block=block) == _by_hand(texts, chosen, kept)


@pytest.mark.parametrize("rules", [DuplicateRules(embedding=0.95), DuplicateRules(minhash=None, embedding=0.9)])
def test_the_outcome_with_vectors_is_that_of_comparing_all(rules: DuplicateRules) -> None:
    texts = _chain(40, 4)
    expected = _by_hand(texts, rules, [30, 60])
    assert {rejected.rule for rejected in expected} >= {"exact", "embedding"}
    for cuts, block in (((), 1 << 16), ((7, 31, 32), 13), ((20,), 3)):
        assert _passed(texts, rules, cuts=cuts, fixed=[30, 60], block=block) == expected


def test_many_that_are_all_alike_are_settled_half_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for few pairs, the same outcome in more steps."""
    texts = [
        (number, f"the same long sentence about a kettle that everybody writes {number % 3}") for number in range(3000)
    ]
    rules = DuplicateRules(exact=False, embedding=None)
    whole = _passed(texts, rules)
    monkeypatch.setattr("workers.duplicates.accept_pass._DIRECT_PAIRS", 100)
    monkeypatch.setattr("workers.duplicates.accept_pass._SMALL", 8)
    monkeypatch.setattr(likeness, "MOST_PAIRS", 1000)
    assert _passed(texts, rules) == whole
    assert len(whole) >= 2997


def test_an_earlier_choice_stays() -> None:
    texts = [(0, "the kettle is broken"), (1, "the kettle is broken"), (2, "the kettle is broken")]
    rules = DuplicateRules(embedding=None)
    assert [(each.index, each.of) for each in _passed(texts, rules)] == [(1, 0), (2, 0)]
    assert [(each.index, each.of) for each in _passed(texts, rules, fixed=[1])] == [(0, 1), (2, 1)]
    assert [(each.index, each.of) for each in _passed(texts, rules, fixed=[1, 2])] == [(0, 1)]


def test_texts_of_another_job_come_first() -> None:
    others = _parts([(8, "The KETTLE is broken"), (9, "a jacket")], [1], "01JOB")
    texts = [(0, "a lamp"), (1, "the kettle is broken"), (2, "a lamp"), (3, "A  jacket")]
    found = _passed(texts, DuplicateRules(embedding=None), against=others)
    assert found == [
        Rejected(1, "exact", 8, 1.0, "01JOB"),
        Rejected(2, "exact", 0, 1.0),
        Rejected(3, "exact", 9, 1.0, "01JOB"),
    ]


def test_small_parts_are_looked_at_together(tmp_path: Path) -> None:
    rules = DuplicateRules(embedding=None)
    texts = [(number, f"text number {number} of a hundred") for number in range(100)]
    cache = SignatureCache(tmp_path / "cache", rules)
    others = [*_parts(texts, range(100), "01A"), *_parts(texts, range(100), "01B")]
    passing = run(
        _parts(texts, range(100)), rules, fixed=NO_ROWS, scratch=tmp_path / "scratch", cache=cache, against=others
    )
    assert next(passing) == Rejected(0, "exact", 0, 1.0, "01A")
    assert len(list((tmp_path / "scratch").iterdir())) == 2  # a set on disk for each job
    assert len(list(passing)) == 99


def test_a_text_like_a_rejected_one_alone_stays() -> None:
    """Only accepted texts count: else each link of a chain would be rejected for the one before."""
    words = [f"word{number}" for number in range(40)]
    texts = []
    for link in range(12):
        texts.append((link, " ".join(words)))
        words[link] = f"other{link}"
    rejected = {each.index for each in _passed(texts, DuplicateRules(embedding=None))}
    assert 1 in rejected
    assert 0 < len(rejected) < 11


def test_a_case_that_only_the_meaning_gives_away_is_found() -> None:
    texts = [
        (0, "The Tarnfell Storm Jacket is a great choice for hill walkers."),
        (1, "The Tarnfell Storm Jacket is a fine choice for hill walkers."),
        (2, "The warranty of this kettle covers two years."),
        (3, "我想退货，因为水壶坏了。"),
        (4, "我想退货， 因为水壶坏了"),
    ]
    found = _passed(texts, DuplicateRules(minhash=None, embedding=0.95))
    assert [(each.index, each.rule, each.of) for each in found] == [(1, "embedding", 0), (4, "embedding", 3)]


def test_what_a_dead_pass_left_is_of_no_account(tmp_path: Path) -> None:
    texts = _chain(50, 1)
    rules = DuplicateRules(embedding=None)
    cache = SignatureCache(tmp_path / "cache", rules)
    passing = run(_parts(texts, [25]), rules, fixed=NO_ROWS, scratch=tmp_path / "scratch", cache=cache, block=10)
    next(passing)
    left = [path.relative_to(tmp_path) for path in (tmp_path / "scratch").iterdir()]
    assert left  # as a process that was killed leaves it
    again = run(_parts(texts, []), rules, fixed=NO_ROWS, scratch=tmp_path / "scratch", cache=cache)
    assert list(again) == _by_hand(texts, rules)
    passing.close()


class _Scattered:
    """Vectors that lie anywhere, at no cost."""

    def codes(self, texts: Sequence[str]) -> NDArray[np.int8]:
        seeds = (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") for text in texts)
        return np.stack([np.random.default_rng(seed).integers(-127, 128, 512, dtype=np.int8) for seed in seeds])


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    rules = DuplicateRules(embedding=0.95)
    chance = random.Random(8)

    def peak(count: int) -> int:
        cache = SignatureCache(tmp_path / f"cache-{count}", rules, _Scattered())
        texts = [(number, " ".join(chance.choices(WORDS, k=20))) for number in range(count)]
        parts = _parts(texts, range(500, count, 500))
        for part in parts:
            cache.ensure(part)
        tracemalloc.start()
        for _ in run(parts, rules, fixed=NO_ROWS, scratch=tmp_path / "scratch", cache=cache, block=150):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(300)  # what is loaded or made once is so by now
    small, large = peak(450), peak(4_500)
    assert small > 1 << 20
    assert large < 1.25 * small


def test_parts_out_of_order_are_refused(tmp_path: Path) -> None:
    rules = DuplicateRules(embedding=None)
    parts = _parts([(5, "a")], []) + _parts([(2, "b")], [])
    with pytest.raises(AssertionError, match="ascending"):
        list(run(parts, rules, fixed=NO_ROWS, scratch=tmp_path / "s", cache=SignatureCache(tmp_path / "c", rules)))


def test_nothing_is_rejected_of_nothing() -> None:
    assert _passed([], DuplicateRules(embedding=0.95)) == []
