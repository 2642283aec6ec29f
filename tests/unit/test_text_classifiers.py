"""The small classifiers of text that packages ship: what each says of texts that leave no doubt."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from models.backends import toxicity
from models.backends.languages import NETWORK as LANGUAGES
from models.backends.rampart import NETWORK as RAMPART
from models.errors import ModelError
from models.package_data import PackageFile
from models.text_classifiers import TextClassifiers
from tests.support.networks import needs

SENTENCES = {
    "en": "The jacket keeps you dry in all weathers.",
    "de": "Die Jacke hält dich bei jedem Wetter trocken.",
    "fr": "La veste vous garde au sec par tous les temps.",
    "es": "La chaqueta te mantiene seco en cualquier clima.",
    "zh": "这件夹克在任何天气下都能让你保持干燥。",
    "ja": "このジャケットはどんな天気でも体を乾いた状態に保ちます。",
    "ru": "Эта куртка защитит вас от дождя в любую погоду.",
}


def test_languages_are_told_apart() -> None:
    needs(LANGUAGES)
    classifiers = TextClassifiers()
    guesses = classifiers.languages(list(SENTENCES.values()))
    assert [guess.code for guess in guesses] == list(SENTENCES)
    assert all(guess.likelihood > 0.5 for guess in guesses)
    [shouted, broken] = classifiers.languages([SENTENCES["de"].upper(), SENTENCES["fr"].replace(" ", "\n")])
    assert (shouted.code, broken.code) == ("de", "fr")


def test_insults_score_higher_than_copy() -> None:
    needs(toxicity.WORDS)
    insults = ["You are an idiot and I hate you.", "What a stupid, ugly piece of crap."]
    clean = [SENTENCES["en"], "I hope you have a nice day.", ""]
    scores = TextClassifiers().toxicity(insults + clean)
    assert min(scores[:2]) > 0.9
    assert max(scores[2:]) < 0.5


def test_what_is_found_does_not_depend_on_what_is_looked_at_beside_it() -> None:
    needs(RAMPART)
    texts = ["I am Alex Rivera.", SENTENCES["en"] * 20, "Ask for Jane Miller, 12 Baker Street.", ""]
    classifiers = TextClassifiers()
    assert classifiers.entities(texts) == [classifiers.entities([text])[0] for text in texts]


def test_weights_are_read_without_running_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Attack:
        def __reduce__(self) -> tuple[type, tuple[str]]:
            return Path, ("/",)

    path = tmp_path / "model.joblib"
    path.write_bytes(pickle.dumps(Attack()))
    monkeypatch.setattr(PackageFile, "locate", lambda _: path)
    with pytest.raises(ModelError, match=r"the weights hold a pathlib.Path, which is none"):
        toxicity.Toxicity()
