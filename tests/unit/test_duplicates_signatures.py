"""What texts are compared by: the plain form, MinHash signatures, and the files that keep them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from workers.duplicates import minhash
from workers.duplicates.rules import DuplicateRules
from workers.duplicates.signatures import SignatureCache
from workers.duplicates.texts import PartTexts, column_texts, normalised, record_texts, text_at

PLAIN = DuplicateRules(embedding=None)
SENTENCE = "my parcel has not arrived yet, and i am beginning to worry that it was sent to the wrong house"


def _share(one: str, other: str) -> float:
    first, second = minhash.signatures([normalised(one), normalised(other)])
    return float((first == second).mean())


def _jaccard(one: str, other: str) -> float:
    """Of runs of 4 characters of plain lower-case words, the space before the first word included."""
    first, second = ({f" {text}"[at : at + 4] for at in range(len(text) - 2)} for text in (one, other))
    return len(first & second) / len(first | second)


def test_what_does_not_count_is_gone_from_the_plain_form() -> None:
    assert normalised("  Straße\t\nÉTÉ　ﬁn ") == "strasse été fin"
    assert normalised("E\u0301te\u0301") == normalised("été")
    assert normalised("Ⅳ ﾊﾟ") == "iv パ"


@settings(deadline=None)
@given(st.text())
def test_the_plain_form_is_its_own_plain_form(text: str) -> None:
    assert normalised(normalised(text)) == normalised(text)


def test_case_and_punctuation_leave_a_signature_as_it_is() -> None:
    assert _share(SENTENCE, f"“{SENTENCE.upper()}” !!") == 1
    assert _share(SENTENCE, SENTENCE.replace(" ", "  -  ")) == 1


def test_agreement_estimates_the_common_share() -> None:
    words = [
        "red",
        "blue",
        "green",
        "small",
        "large",
        "warm",
        "cold",
        "soft",
        "hard",
        "plain",
        "kettle",
        "jacket",
        "lamp",
        "table",
        "chair",
    ]
    rng = np.random.default_rng(3)
    errors = []
    for changed in range(60):
        text = list(rng.choice(words, 30))
        other = list(text)
        for at in rng.choice(30, changed % 12, replace=False):
            other[at] = str(rng.integers(10**6))
        errors.append(_share(" ".join(text), " ".join(other)) - _jaccard(" ".join(text), " ".join(other)))
    assert abs(np.mean(errors)) < 0.02
    assert np.abs(errors).max() < 0.2


def test_texts_without_spaces_are_compared_by_shorter_pieces() -> None:
    text = "我昨天收到的水壶已经坏了，请问怎样才能退货并且拿回我付的钱？"
    assert _share(text, text.replace("，", " ").replace("？", "。").replace("水壶", "水 壶")) == 1
    assert 0.6 < _share(text, text.replace("水壶", "台灯")) < 1
    assert _share(text, "保修期为两年，从购买之日起计算，配件除外。") < 0.1


@pytest.mark.parametrize("text", ["", "a", "ab", "…", "?!", "👍", "\ud800"])
def test_the_shortest_texts_have_signatures_of_their_own(text: str) -> None:
    others = ["", "a", "ab", "…", "?!", "👍", "\ud800"]
    shares = [_share(text, other) for other in others]
    assert [share == 1 for share in shares] == [normalised(text) == normalised(other) for other in others]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=12))
def test_a_signature_is_that_of_its_text_in_any_company(texts: list[str]) -> None:
    plain = [normalised(text) for text in texts]
    alone = np.concatenate([minhash.signatures([text]) for text in plain])
    assert np.array_equal(minhash.signatures(plain), alone)


@pytest.mark.parametrize("threshold", [0.7, 0.8, 0.85, 0.9, 0.99, 1.0])
def test_signatures_that_are_alike_share_a_band(threshold: float) -> None:
    least, width = minhash.least_agreement(threshold), minhash.band_width(threshold)
    rng = np.random.default_rng(1)
    signature = rng.integers(0, 1 << 16, (1, minhash.PLACES), dtype=np.uint16)
    keys = minhash.band_keys(signature, width)
    for spread in (True, False):
        other = signature.copy()
        changed = minhash.PLACES - least
        places = np.linspace(0, minhash.PLACES - 1, changed).astype(int) if spread else np.arange(changed)
        other[0, places] ^= 1
        assert (minhash.band_keys(other, width) == keys).any(), threshold


def test_a_key_is_that_of_one_band() -> None:
    keys = minhash.band_keys(np.full((1, minhash.PLACES), 7, np.uint16), 8)
    assert len(np.unique(keys)) == 16


def test_the_texts_of_a_part_are_those_of_its_good_records(tmp_path: Path) -> None:
    lines: list[dict[str, object]] = [
        {"index": 4, "status": "ok", "output": {"answer": {"text": "Yes", "points": [1, 2.5]}, "topic": "x"}},
        {"index": 5, "status": "failed", "error": {"code": "c", "message": "m"}},
        {"index": 6, "status": "ok", "output": "plain", "seed": 1},
        {"index": 7, "status": "ok", "outputs": [{"text": "a", "finish_reason": "stop", "seed": 1}, {"text": "b"}]},
    ]
    path = tmp_path / "part.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert list(record_texts(path, "output")) == [(4, "Yes\n1\n2.5\nx"), (6, "plain"), (7, "a\nb")]
    assert list(record_texts(path, "output.answer.text")) == [(4, "Yes")]
    assert list(record_texts(path, "answer.points.1")) == [(4, "2.5")]
    assert list(record_texts(path, "output.1")) == [(7, "b")]
    assert list(record_texts(path, "answer.nothing")) == []
    assert text_at({"output": "a column of this name", "other": 1}, "output") == "a column of this name"


def test_the_texts_of_a_column_have_the_indexes_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "block.parquet"
    parquet.write_table(pa.table({"text": ["one", None, "three"], "other": [1, 2, 3]}), path)
    assert list(column_texts(path, "text", 100)) == [(100, "one"), (102, "three")]


class _Part:
    """A part that counts how often its texts are read."""

    def __init__(self, texts: list[str]) -> None:
        self.reads = 0
        self._texts = texts
        self.part = PartTexts("0" * 64, self._read)

    def _read(self) -> Iterable[tuple[int, str]]:
        self.reads += 1
        return enumerate(self._texts)


def test_signatures_are_kept_and_made_again_when_they_are_damaged(tmp_path: Path) -> None:
    part = _Part([f"text number {number}" for number in range(20)])
    path = SignatureCache(tmp_path, PLAIN).ensure(part.part)
    whole = path.read_bytes()
    assert (part.reads, SignatureCache(tmp_path, PLAIN).ensure(part.part)) == (1, path)
    assert part.reads == 1
    for number, damaged in enumerate((whole[:-1], whole[: len(whole) // 2], b"", whole[:50] + b"x" + whole[51:])):
        path.write_bytes(damaged)
        assert SignatureCache(tmp_path, PLAIN).ensure(part.part).read_bytes() == whole
        assert part.reads == number + 2
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_thresholds_share_signatures_and_what_is_compared_does_not(tmp_path: Path) -> None:
    part = _Part(["a text"])
    paths = [
        SignatureCache(tmp_path, rules).ensure(part.part)
        for rules in (PLAIN, PLAIN.model_copy(update={"minhash": 0.9}), PLAIN.model_copy(update={"field": "answer"}))
    ]
    assert paths[0] == paths[1] != paths[2]
    assert part.reads == 2


def test_signatures_are_read_in_blocks(tmp_path: Path) -> None:
    part = _Part([f"text number {number}" for number in range(20)])
    blocks = list(SignatureCache(tmp_path, PLAIN).blocks(part.part, 8))
    assert [block.index.tolist() for block in blocks] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert len(np.unique(np.concatenate([block.digest for block in blocks])[:, 0])) == 20


def test_a_part_whose_texts_are_not_in_order_is_refused(tmp_path: Path) -> None:
    part = PartTexts("1" * 64, lambda: [(2, "a"), (1, "b")])
    with pytest.raises(AssertionError, match="ascending"):
        SignatureCache(tmp_path, PLAIN).ensure(part)
    assert list(tmp_path.iterdir()) == []


def test_rules_say_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no rule is left"):
        DuplicateRules(exact=False, minhash=None, embedding=None)
    with pytest.raises(ValueError, match=r"greater than or equal to 0\.7"):
        DuplicateRules(minhash=0.3)
    assert DuplicateRules(minhash=None, embedding=0.95).names == ("exact", "embedding")
