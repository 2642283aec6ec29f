"""How offensive an English text is: a linear classifier over its words.

Five support vector machines, averaged and calibrated (Platt, "Probabilistic outputs for SVMs", 1999),
trained on 200,000 labelled comments and posts in English: Jigsaw's toxic comments and Davidson et al., 2017,
https://arxiv.org/abs/1703.04009. Weights MIT (Victor Zhou, Dimitrios Mistriotis), as the package `alt-profanity-check`
ships them; its code is not imported. It weighs words and knows no context: polite threats pass, quoted insults do not,
and of another language it knows nothing. A filter, not a judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from joblib.numpy_pickle import NumpyUnpickler
from numpy.typing import NDArray

from models.errors import FailureKind, ModelError
from models.package_data import PackageFile, revision

_PACKAGE, _VERSION = "alt-profanity-check", "1.9.1"
WORDS = PackageFile(
    _PACKAGE,
    _VERSION,
    "profanity_check/data/vectorizer.joblib",
    "19c5200dc6a41f026e0558e2f164f5fe8d8f58e502b46b37e4385037fcfa4831",
)
WEIGHTS = PackageFile(
    _PACKAGE,
    _VERSION,
    "profanity_check/data/model.joblib",
    "aeafc04849d4d93db4721cf30a86ebf22085595294b8a07d51918e7fa98f538b",
)
_WORD = re.compile(r"\b\w\w+\b")
_HARMLESS = frozenset(
    {("joblib.numpy_pickle", "NumpyArrayWrapper"), ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy", "float64")}
    | {("numpy._core.multiarray", "scalar"), ("numpy.core.multiarray", "scalar")}
)


class Toxicity:
    """The classifier, loaded. As `models.text_classifiers.ToxicityScorer`."""

    revision = revision((WORDS, WEIGHTS))

    def __init__(self) -> None:
        """Raises ModelError, kind MODEL, where the package is missing or a file is not the pinned one."""
        words = _read(WORDS.locate())
        machines = _read(WEIGHTS.locate()).calibrated_classifiers_
        self._places: dict[str, int] = {word: int(place) for word, place in words.vocabulary_.items()}
        self._idf: NDArray[np.float64] = words._tfidf.idf_  # a value of the file
        self._weights = np.vstack([machine.estimator.coef_[0] for machine in machines])
        self._bias = np.array([machine.estimator.intercept_[0] for machine in machines])
        self._slope = np.array([machine.calibrators[0].a_ for machine in machines])
        self._shift = np.array([machine.calibrators[0].b_ for machine in machines])

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Of each text a score from 0 to 1: how likely somebody would call it offensive."""
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> float:
        counts = Counter(_WORD.findall(text.lower()))
        known = [(self._places[word], times) for word, times in counts.items() if word in self._places]
        margins = self._bias
        if known:
            places, times = map(np.array, zip(*known, strict=True))
            values = times * self._idf[places]
            margins = margins + self._weights[:, places] @ (values / np.linalg.norm(values))
        return float(np.mean(1 / (1 + np.exp(self._slope * margins + self._shift))))


class _Values:
    """What stands for an object of scikit-learn: its attributes, and nothing that it does."""

    def __setstate__(self, state: dict[str, Any]) -> None:  # whatever the file holds
        self.__dict__.update(state)


class _Reader(NumpyUnpickler):  # type: ignore[misc]  # the package has no annotations
    """Reads a pickle without making anything of it but numbers, texts and `_Values`."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - of any class
        if (module, name) in _HARMLESS:
            return super().find_class(module, name)
        if module.startswith("sklearn."):
            return _Values
        raise ModelError(FailureKind.MODEL, "weights_changed", f"the weights hold a {module}.{name}, which is none")


def _read(path: Path) -> Any:  # noqa: ANN401 - the file's values, by the names of its attributes
    with path.open("rb") as file:
        return _Reader(str(path), file, ensure_native_byte_order=True).load()
