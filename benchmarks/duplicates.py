"""Near-duplicates: how many of planted ones are found, what is rejected wrongly, and what a job's pass costs.

Texts are random words of English, German and Chinese word lists (those of `faker`), by a law by which a few words are
frequent, as in real text. Copies are planted with small edits. Speed and memory are those of a process of its own for
each size, on one core, with signatures made anew; peaks of memory include the interpreter and what it loads. Writes
results/duplicates.json and results/duplicates.md. Run as
`python -m benchmarks.duplicates [--sizes 10000 100000 1000000] [--embedding-sizes 1000 10000]`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from faker import Faker
from numpy.typing import NDArray

from benchmarks.measuring import keep, machine, rows, said
from workers.duplicates.accept_pass import Rejected, run
from workers.duplicates.rules import DuplicateRules
from workers.duplicates.signatures import SignatureCache
from workers.duplicates.texts import PartTexts

PART = 20_000
PLANTED_EVERY = 10
"""Of the texts for speed, one in so many is an edited copy of an earlier one."""
LOCALES = ("en_US", "de_DE", "zh_CN")
RULES = {
    "exact": DuplicateRules(minhash=None, embedding=None),
    "exact, minhash 0.85": DuplicateRules(embedding=None),
    "exact, embedding 0.95": DuplicateRules(minhash=None, embedding=0.95),
    "exact, minhash 0.85, embedding 0.95": DuplicateRules(embedding=0.95),
}
NOTHING = np.empty(0, np.int64)


@functools.cache
def words_of(locale: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(Faker(locale).get_words_list()))


def text_of(chance: random.Random, locale: str, least: int, most: int) -> str:
    """A few sentences of a language's words, the first of the list the most frequent."""
    words = words_of(locale)
    chosen = [words[int(len(words) ** chance.random()) - 1] for _ in range(chance.randint(least, most))]
    return ("" if locale == "zh_CN" else " ").join(chosen) + ("。" if locale == "zh_CN" else ".")


def _tokens(text: str, locale: str) -> tuple[list[str], str]:
    return (list(text), "") if locale == "zh_CN" else (text.split(" "), " ")


def _case(text: str, locale: str, chance: random.Random) -> str:  # noqa: ARG001 - as the others
    return text.title()


def _punctuation(text: str, locale: str, chance: random.Random) -> str:
    tokens, space = _tokens(text, locale)
    at = chance.randrange(len(tokens))
    return space.join([*tokens[:at], f"{tokens[at]},", *tokens[at + 1 :]]) + "!"


def _spaces(text: str, locale: str, chance: random.Random) -> str:  # noqa: ARG001 - as the others
    return f"  {text} ".replace(" ", "\u3000\n")


def _word_changed(text: str, locale: str, chance: random.Random) -> str:
    tokens, space = _tokens(text, locale)
    at = chance.randrange(len(tokens))
    word = chance.choice(words_of(locale))
    tokens[at] = word[:1] if locale == "zh_CN" else word
    return space.join(tokens)


def _word_dropped(text: str, locale: str, chance: random.Random) -> str:
    tokens, space = _tokens(text, locale)
    del tokens[chance.randrange(len(tokens))]
    return space.join(tokens)


def _words_swapped(text: str, locale: str, chance: random.Random) -> str:
    tokens, space = _tokens(text, locale)
    at = chance.randrange(len(tokens) - 1)
    tokens[at : at + 2] = reversed(tokens[at : at + 2])
    return space.join(tokens)


EDITS: dict[str, Callable[[str, str, random.Random], str]] = {
    "case": _case,
    "spaces": _spaces,
    "punctuation": _punctuation,
    "one word changed": _word_changed,
    "one word dropped": _word_dropped,
    "two words swapped": _words_swapped,
}


def _part(number: int, texts: Sequence[tuple[int, str]] | Callable[[], Iterator[tuple[int, str]]]) -> PartTexts:
    name = hashlib.sha256(f"part {number}".encode()).hexdigest()
    return PartTexts(name, texts if callable(texts) else lambda: texts)


def _rejected(texts: Sequence[str], rules: DuplicateRules) -> list[Rejected]:
    with tempfile.TemporaryDirectory(prefix="nm-duplicates-") as folder:
        cache = SignatureCache(Path(folder, "cache"), rules)
        part = _part(0, list(enumerate(texts)))
        return list(run([part], rules, fixed=NOTHING, scratch=Path(folder, "scratch"), cache=cache))


def measure_quality(texts: int) -> list[dict[str, Any]]:
    """By rules, length of the texts and edit: the share of edited copies that are rejected for their originals."""
    found = []
    for least, most in ((8, 15), (30, 60)):
        chance = random.Random(17)
        originals = [(locale, text_of(chance, locale, least, most)) for locale in LOCALES for _ in range(texts)]
        copies = [(edit, edited(text, locale, chance)) for edit, edited in EDITS.items() for locale, text in originals]
        together = [*(text for _, text in originals), *(text for _, text in copies)]
        for name, rules in RULES.items():
            caught: Counter[str] = Counter()
            wrong = 0
            for each in _rejected(together, rules):
                row = each.index - len(originals)
                if row < 0:
                    wrong += 1
                elif each.of % len(originals) == row % len(originals):
                    caught[copies[row][0]] += 1
                else:
                    wrong += 1
            recall = {edit: caught[edit] / len(originals) for edit in EDITS}
            precision = caught.total() / max(1, caught.total() + wrong)
            found.append(
                {"rules": name, "words": f"{least} to {most}", "recall": recall, "wrong": wrong, "precision": precision}
            )
    return found


def measure_speed(size: int, rules: DuplicateRules, encoder: StandIn | None = None) -> dict[str, Any]:
    """One job of so many texts, in this process: seconds for signatures, for a pass, and the peak of memory."""

    def text(index: int) -> str:
        chance = random.Random(index)
        if index % PLANTED_EVERY == PLANTED_EVERY - 1:
            return _word_changed(text(chance.randrange(index)), "en_US", chance)
        return text_of(chance, "en_US", 10, 30)

    def texts(first: int) -> Iterator[tuple[int, str]]:
        return ((index, text(index)) for index in range(first, min(size, first + PART)))

    parts = [_part(first, functools.partial(texts, first)) for first in range(0, size, PART)]
    started = time.process_time()
    for part in parts:
        for _ in part.texts():
            pass
    making = time.process_time() - started
    with tempfile.TemporaryDirectory(prefix="nm-duplicates-") as folder:
        cache = SignatureCache(Path(folder, "cache"), rules, encoder)
        started, wall = time.process_time(), time.perf_counter()
        for part in parts:
            cache.ensure(part)
        signing, signing_wall = time.process_time() - started - making, time.perf_counter() - wall
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started, wall = time.process_time(), time.perf_counter()
        passed = run(parts, rules, fixed=NOTHING, scratch=Path(folder, "scratch"), cache=cache)
        by_rule = Counter(each.rule for each in passed)
        return {
            "texts": size,
            "signatures_cpu_seconds": signing,
            "signatures_wall_seconds_with_making_texts": signing_wall,
            "pass_cpu_seconds": time.process_time() - started,
            "pass_wall_seconds": time.perf_counter() - wall,
            "rejected": dict(by_rule),
            "peak_mebibytes_signatures": before // 1024,
            "peak_mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


class StandIn:
    """In place of the encoder, whose vectors of so many texts take hours: mixtures of real ones, three to each text."""

    def __init__(self) -> None:
        # It brings torch with it, which would count as the memory of those that do without.
        from models.text_vectors import TextVectors  # noqa: PLC0415

        chance = random.Random(1)
        codes = TextVectors().codes([text_of(chance, "en_US", 10, 30) for _ in range(500)]).astype(np.float32)
        self._real = codes / np.linalg.norm(codes, axis=1, keepdims=True)

    def codes(self, texts: Sequence[str]) -> NDArray[np.int8]:
        digests = (hashlib.blake2b(text.encode(), digest_size=12).digest() for text in texts)
        rows = np.array([np.frombuffer(digest, np.uint32) for digest in digests]) % len(self._real)
        mixed = self._real[rows[:, 0]] + 0.6 * self._real[rows[:, 1]] + 0.3 * self._real[rows[:, 2]]
        codes: NDArray[np.int8] = np.rint(mixed * (127 / np.abs(mixed).max(axis=1, keepdims=True))).astype(np.int8)
        return codes


def _speed_apart(size: int, rules: str, *, stand_in: bool = False) -> dict[str, Any]:
    with said(f"{size:,} texts, {rules}{', vectors stood in for' if stand_in else ''}"):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.duplicates", "--one", str(size), rules),
                *(["--stand-in"] if stand_in else []),
            ],
            stdout=subprocess.PIPE,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    return {"rules": rules, "stand_in": stand_in, **json.loads(done.stdout)}


def report(quality: list[dict[str, Any]], speed: list[dict[str, Any]], where: str) -> str:
    table = (
        f"Planted near-duplicates in English, German and Chinese, {where}\n\nShare of edited copies that are found:\n\n"
    )
    table += rows(
        ["words", "rules", *EDITS, "rejected wrongly", "precision"],
        [
            [
                one["words"],
                one["rules"],
                *(f"{one['recall'][edit]:.3f}" for edit in EDITS),
                one["wrong"],
                f"{one['precision']:.4f}",
            ]
            for one in quality
        ],
    )
    table += "\nOne core, texts of 10 to 30 words, one in ten an edited copy; times are CPU seconds:\n\n"
    table += rows(
        ["rules", "texts", "signatures, s", "pass, s", "rejected", "peak, MiB: signatures", "peak, MiB: all"],
        [
            [
                one["rules"],
                f"{one['texts']:,}",
                "-" if one["stand_in"] else f"{one['signatures_cpu_seconds']:.1f}",
                f"{one['pass_cpu_seconds']:.1f}",
                f"{sum(one['rejected'].values()):,}",
                one["peak_mebibytes_signatures"],
                one["peak_mebibytes"],
            ]
            for one in speed
        ],
    )
    return table + "\nWhere signatures have no time, vectors are mixtures of real ones: the encoder is not measured.\n"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    options.add_argument("--stand-in-sizes", type=int, nargs="*", default=[100_000])
    options.add_argument("--stand-in", action="store_true", help="with --one: no encoder, for what comes after it")
    options.add_argument("--embedding-sizes", type=int, nargs="*", default=[1_000, 10_000])
    options.add_argument(
        "--planted", type=int, default=100, help="originals of each language, each edited in every way"
    )
    options.add_argument(
        "--one", nargs=2, metavar=("SIZE", "RULES"), help="measure one size, for the process that asks"
    )
    given = options.parse_args()
    if given.one:
        encoder = StandIn() if given.stand_in else None
        print(json.dumps(measure_speed(int(given.one[0]), RULES[given.one[1]], encoder)))
        return
    before = machine()
    speed = [
        *(_speed_apart(size, "exact, minhash 0.85") for size in given.sizes),
        *(_speed_apart(size, "exact, minhash 0.85, embedding 0.95") for size in given.embedding_sizes),
        *(_speed_apart(size, "exact, minhash 0.85, embedding 0.95", stand_in=True) for size in given.stand_in_sizes),
    ]
    with said("planted copies"):
        quality = measure_quality(given.planted)
    where = f"{before['cores']} cores ({before['processor']})"
    keep("duplicates", {"machine": before, "quality": quality, "speed": speed}, report(quality, speed, where))


if __name__ == "__main__":
    main()
