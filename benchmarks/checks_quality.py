"""What the checks of texts catch, and what they take for it: a planted set, made by `faker` in several locales.

- planted: a sentence of the locale's words with one value in its middle, as `faker` makes it in that locale: e-mail,
  telephone, card, account (IBAN) and IP numbers, names, streets, and terms that are banned. A value with a form counts
  as caught where a span of its kind covers it whole, a name or street where spans of its kind cover half of it.
- clean: such sentences without a value; and with numbers that give nobody away (prices, dates, times, EAN and ISBN,
  codes of products, versions, sizes). Whatever is found in one is a false alarm.
- precision: of what was found of a kind in all of these texts, the share that lies on a value of that kind.
- numbers: texts that state a row's numbers in many forms, as they are and with one of them changed.
- time: milliseconds that each check adds to an item of 60 words; and by how much a shard takes longer with them, of an
  engine that is another device: it sleeps.

Accounts of locales that faker has none of are German ones. What texts of other seeds showed to be wrong was mended; the
figures are of a seed whose texts nobody had looked at. Writes results/checks_quality.json and .md. Run as
`python -m benchmarks.checks_quality [--count 200] [--names 40] [--seed 17]`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faker import Faker

from benchmarks.measuring import keep, machine, rows
from models.backends.echo import EchoBackend
from models.spec import Message, TextRequest, TextResult
from models.text_classifiers import Span, TextClassifiers
from workers.acceptance.checks import Candidate, Checks
from workers.acceptance.numbers import RowNumbers, numbers_in
from workers.acceptance.pii import PiiFinder
from workers.acceptance.rules import Accept, PiiKind
from workers.contracts import CountRange, ShardTask, Work
from workers.execute import Execution
from workers.screening import DenyList
from workers.store_folder import FolderStore

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pt_BR", "zh_CN", "ja_JP")
UNSPACED = {"zh_CN", "ja_JP"}
WITH_ACCOUNTS = {"en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "pt_BR"}
STRICT: tuple[PiiKind, ...] = ("email", "phone", "card", "iban", "ip", "ssn")
NAMED: tuple[PiiKind, ...] = ("name", "address")
WORDS = 60
FAST, SLOW = 40.0, 8.0
"""Answers a second of engines that are another device; names are looked for behind the slow one."""


@dataclass
class Text:
    """One text of the set."""

    text: str
    kind: str | None = None
    start: int = 0
    end: int = 0


@dataclass
class Score:
    """What came of one kind."""

    planted: int = 0
    caught: int = 0
    spans: int = 0
    right: int = 0
    by_locale: Counter[str] = field(default_factory=Counter)
    """Values that were missed."""
    missed: list[str] = field(default_factory=list)


def sentence(fake: Faker, locale: str, value: str = "", kind: str | None = None) -> Text:
    """Words of a locale, with a value in their middle."""
    words = fake.sentence(nb_words=12).split()
    if locale in UNSPACED:
        whole = "".join(words)
        middle = len(whole) // 2
        before, behind = whole[:middle], whole[middle:]
    else:
        before, behind = " ".join(words[:6]), " ".join(words[6:])
        before, behind = (f"{before} " if before else ""), f" {behind}"
    if not value:
        return Text(before.rstrip() + behind)
    return Text(f"{before}{value}{behind}", kind, len(before), len(before) + len(value))


def makers(fake: Faker, accounts: Faker) -> dict[str, Callable[[], str]]:
    """How faker makes a value of each kind."""
    return {
        "email": lambda: str(fake.email()),
        "phone": lambda: str(fake.phone_number()),
        "card": lambda: str(fake.credit_card_number()),
        "iban": lambda: str(accounts.iban()),
        "ip": lambda: str(fake.ipv4() if fake.boolean() else fake.ipv6()),
        "name": lambda: str(fake.name()),
        "address": lambda: str(fake.street_address()).replace("\n", " "),
    }


def harmless(fake: Faker) -> str:
    """A number that gives nobody away."""
    kinds: list[Callable[[], str]] = [
        lambda: f"{fake.random_int(1, 999_999):,}",
        lambda: f"{fake.random_int(1, 9_999)}.{fake.random_int(10, 99)} €",
        lambda: str(fake.date()),
        lambda: f"{fake.date()} {fake.time()}",
        lambda: str(fake.isbn13()),
        lambda: str(fake.ean13()),
        lambda: str(fake.bothify("??-####-##")),
        lambda: str(fake.numerify("%.#.##")),
        lambda: str(fake.numerify("%## x %## x %## mm")),
        lambda: f"{fake.year()}-{fake.year()}",
    ]
    return str(fake.random_element(kinds)())


def planted(seed: int, count: int, kinds: Sequence[str]) -> Iterator[tuple[str, Text]]:
    """Texts with a value, each with its locale."""
    german = Faker("de_DE")
    german.seed_instance(seed)
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed)
        make = makers(fake, fake if locale in WITH_ACCOUNTS else german)
        for kind in kinds:
            for _ in range(count):
                yield locale, sentence(fake, locale, make[kind](), kind)


def clean(seed: int, count: int, *, numbers: bool) -> list[tuple[str, Text]]:
    """Texts that give nobody away, with numbers or without."""
    texts = []
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed + 1)
        for _ in range(count):
            text = sentence(fake, locale, harmless(fake) if numbers else "").text
            texts.append((locale, Text(text)))
    return texts


def score(
    finder: PiiFinder, texts: Sequence[tuple[str, Text]], scores: dict[str, Score], *, whole: bool
) -> Counter[str]:
    """Look for values in texts and add up; what was found in clean texts, by kind."""
    alarms: Counter[str] = Counter()
    found = finder.find([text.text for _, text in texts])
    for (locale, text), spans in zip(texts, found, strict=True):
        if text.kind is None:
            alarms.update({span.kind for span in spans})
        for span in spans:
            scores[span.kind].spans += 1
            scores[span.kind].right += text.kind == span.kind and span.start < text.end and span.end > text.start
        if text.kind is not None:
            _count(scores[text.kind], locale, text, spans, whole=whole)
    return alarms


def _count(one: Score, locale: str, text: Text, spans: Sequence[Span], *, whole: bool) -> None:
    covered = {
        place
        for span in spans
        if span.kind == text.kind
        for place in range(max(span.start, text.start), min(span.end, text.end))
    }
    one.planted += 1
    needed = (text.end - text.start) * (1.0 if whole else 0.5)
    if len(covered) >= needed:
        one.caught += 1
        return
    one.by_locale[locale] += 1
    if len(one.missed) < 10:
        one.missed.append(f"{locale}: {text.text[text.start : text.end]}")


def banned(seed: int, count: int) -> dict[str, int]:
    """Terms that are banned, planted whole and as a part of longer words."""
    caught = alarms = total = 0
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed + 2)
        spaced = locale not in UNSPACED
        terms = [f"Xq{fake.word()}{number}" if spaced else f"禁{number}{fake.word()}" for number in range(5)]
        terms += [f"{fake.word()} xq{fake.word()}" for _ in range(5)] if spaced else []
        deny = DenyList(terms)
        for _ in range(count):
            term = fake.random_element(terms)
            written = fake.random_element([term, term.upper(), term.lower(), term.replace(" ", "\n"), f'"{term}"'])
            total += 1
            caught += deny.find(sentence(fake, locale, written).text) is not None
            alarms += deny.find(sentence(fake, locale, f"{term}xy" if spaced else "").text) is not None
    return {"planted": total, "caught": caught, "clean": total, "false_alarms": alarms}


def numbers(seed: int, count: int) -> dict[str, int]:
    """Texts that state a row's numbers, as they are and with one changed."""
    chance = random.Random(seed)
    alarms = caught = 0
    for _ in range(count):
        row: dict[str, Any] = {
            "price": chance.randint(1_000, 99_999) / 100,
            "weight_kg": chance.randint(2, 90) / 10,
            "stock": chance.randint(1_000, 99_999),
            "share": f"{chance.randint(14, 99)} %",
        }
        other = {**row, "stock": row["stock"] + 1}
        other = chance.choice([other, {**row, "price": row["price"] + 0.5}, {**row, "weight_kg": row["weight_kg"] + 9}])
        form = chance.choice(_FORMS)
        known = RowNumbers(row)
        alarms += any(known.lacks(number) for number in numbers_in(form(row)))
        caught += any(known.lacks(number) for number in numbers_in(form(other)))
    return {"planted": count, "caught": caught, "clean": count, "false_alarms": alarms}


def _english(row: dict[str, Any]) -> str:
    return (
        f"It weighs {row['weight_kg']:g} kg, costs ${row['price']:,.2f}, is {row['share']} wool; {row['stock']:,} left."
    )


def _german(row: dict[str, Any]) -> str:
    price = f"{row['price']:,.2f}".translate(str.maketrans(",.", ".,"))
    stock = f"{row['stock']:,}".replace(",", ".")
    return f"{row['weight_kg']:g} kg".replace(".", ",") + f" für {price} €, zu {row['share']} Wolle, noch {stock} da."


def _grams(row: dict[str, Any]) -> str:
    stock = f"{row['stock']:,}".replace(",", "\u202f")
    return f"{round(row['weight_kg'] * 1000)} g, {row['price']:.2f} EUR, {row['share'].replace(' ', '')}, {stock} pcs"


_FORMS = (_english, _german, _grams)


def copy(seed: int) -> str:
    """A text of 60 words without a number."""
    fake = Faker("en_US")
    fake.seed_instance(seed)
    words = [word for word in fake.words(2 * WORDS) if not list(numbers_in(word))]
    return f"{' '.join(words[:WORDS])}."


def times(classifiers: TextClassifiers, count: int) -> dict[str, float]:
    """Milliseconds that each check takes for a text of 60 words, in batches as a shard has them."""
    candidates = [Candidate({"name": "jacket", "price": 12}, copy(seed)) for seed in range(count)]
    rules: dict[str, list[dict[str, Any]]] = {
        "words, regex, expression, banned": [
            {"words": [1, 99]},
            {"regex": "euros"},
            {"expression": "name|length > 2"},
            {"banned": ["xq"]},
        ],
        "numbers": [{"numbers": "row"}],
        "language": [{"language": "en"}],
        "pii by form": [{"pii": "note", "kinds": list(STRICT)}],
        "pii, names and addresses": [{"pii": "note", "kinds": ["name", "address"]}],
        "toxicity": [{"toxicity": 0.99}],
    }
    found = {}
    for name, listed in rules.items():
        checks = Checks(Accept.model_validate({"rules": listed}), classifiers)
        checks(candidates[:4])  # whatever is loaded is loaded
        started = time.perf_counter()
        for first in range(0, count, 64):
            checks(candidates[first : first + 64])
        found[name] = (time.perf_counter() - started) * 1000 / count
    return found


class Elsewhere(EchoBackend):
    """An engine that is another device: it takes time, and none of this machine's. `pace` is in answers a second."""

    def __init__(self, pace: float) -> None:
        super().__init__()
        self._pace = pace

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        for first in range(0, len(requests), 8):
            await asyncio.sleep(8 / self._pace)
            async for results in super().generate(requests[first : first + 8]):
                yield results


def shard_seconds(classifiers: TextClassifiers, rules: list[dict[str, Any]] | None, count: int, pace: float) -> float:
    """How long a shard takes, with rules or without, of an engine of a pace in answers a second."""
    work = Work(
        model="echo",
        engine="auto",
        messages=(Message("user", copy(1)),),
        sampling={"max_tokens": 200},
        seed=1,
        accept=None if rules is None else {"rules": rules},
    )
    source = CountRange(start=0, count=count)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=count, source=source, work=work)

    async def run(folder: Path) -> float:
        execution = Execution(task, "E", FolderStore(folder), classifiers=classifiers)
        execution.granted.set()
        backend = Elsewhere(pace)
        info = await backend.load()
        started = time.perf_counter()
        part = await execution.run(backend, info)
        assert part.counts.ok == count
        return time.perf_counter() - started

    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(run(Path(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200, help="texts of each kind with a form, by locale")
    parser.add_argument("--names", type=int, default=40, help="texts of each kind without one, by locale")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    classifiers = TextClassifiers()
    scores: dict[str, Score] = defaultdict(Score)
    strict = PiiFinder(classifiers, STRICT)
    named = PiiFinder(classifiers, NAMED)
    plain, numbered = clean(args.seed, args.count, numbers=False), clean(args.seed, args.count, numbers=True)
    score(strict, list(planted(args.seed, args.count, [kind for kind in STRICT if kind != "ssn"])), scores, whole=True)
    alarms = {"plain": score(strict, plain, scores, whole=True), "numbers": score(strict, numbered, scores, whole=True)}
    score(named, list(planted(args.seed, args.names, NAMED)), scores, whole=False)
    few = [text for at, text in enumerate(plain) if at % args.count < args.names]
    few_numbered = [text for at, text in enumerate(numbered) if at % args.count < args.names]
    alarms["plain"] += score(named, few, scores, whole=False)
    alarms["numbers"] += score(named, few_numbered, scores, whole=False)
    added = times(classifiers, 128)
    quick: list[dict[str, Any]] = [
        {"words": [1, 99]},
        {"numbers": ["price"]},
        {"banned": ["xq"]},
        {"language": "en"},
        {"pii": "note", "kinds": list(STRICT)},
        {"toxicity": 0.999},
    ]
    all_of_them = [*quick, {"pii": "note", "kinds": list(NAMED), "name": "names"}]
    shards = [
        {
            "checks": name,
            "items": items,
            "answers_a_second": pace,
            "seconds_without": shard_seconds(classifiers, None, items, pace),
            "seconds_with": shard_seconds(classifiers, rules, items, pace),
        }
        for name, rules, items, pace in (
            ("all but names and addresses", quick, 240, FAST),
            ("all", all_of_them, 64, SLOW),
        )
    ]
    figures = {
        "machine": machine(),
        "locales": LOCALES,
        "clean": {"plain": len(plain), "numbers": len(numbered), "of_names": {"plain": len(few), "numbers": len(few)}},
        "kinds": {
            kind: {
                "planted": one.planted,
                "caught": one.caught,
                "recall": one.caught / one.planted,
                "precision": one.right / max(1, one.spans),
                "false_alarms": {name: found[kind] for name, found in alarms.items()},
                "missed_by_locale": dict(one.by_locale),
                "missed": one.missed,
            }
            for kind, one in scores.items()
            if one.planted
        },
        "banned": banned(args.seed, args.count),
        "numbers": numbers(args.seed, 2000),
        "milliseconds": added,
        "shards": shards,
    }
    keep("checks_quality", figures, report(figures))


def report(figures: dict[str, Any]) -> str:
    """The tables."""
    lines = []
    for kind, one in figures["kinds"].items():
        of_names = figures["clean"]["of_names"] if kind in NAMED else figures["clean"]
        false = [f"{one['false_alarms'][name]} of {of_names[name]:,}" for name in ("plain", "numbers")]
        caught = f"{one['caught']:,} of {one['planted']:,}"
        lines.append([kind, caught, f"{one['recall']:.1%}", f"{one['precision']:.1%}", *false])
    for name in ("banned", "numbers"):
        one = figures[name]
        caught = f"{one['caught']:,} of {one['planted']:,}"
        right = one["caught"] / max(1, one["caught"] + one["false_alarms"])
        false = [f"{one['false_alarms']} of {one['clean']:,}", "-"]
        lines.append([name, caught, f"{one['caught'] / one['planted']:.1%}", f"{right:.1%}", *false])
    head = ["kind", "caught", "recall", "precision", "false alarms in clean texts", "in clean texts with numbers"]
    cores, processor = figures["machine"]["cores"], figures["machine"]["processor"]
    shards = [
        [
            one["checks"],
            one["answers_a_second"],
            f"{one['seconds_without']:.2f} s",
            f"{one['seconds_with']:.2f} s",
            f"{one['seconds_with'] / one['seconds_without'] - 1:+.1%}",
        ]
        for one in figures["shards"]
    ]
    missed = [
        f"- {kind}: {', '.join(f'{locale} {times}' for locale, times in one['missed_by_locale'].items())}"
        for kind, one in figures["kinds"].items()
        if one["missed_by_locale"]
    ]
    return "\n".join(
        [
            f"{len(figures['locales'])} locales: {', '.join(figures['locales'])}; {cores} cores ({processor})",
            "",
            rows(head, lines),
            "",
            "Missed, by locale:",
            "",
            *missed,
            "",
            rows(
                ["check", "added to an item of 60 words"],
                [[name, f"{value:.2f} ms"] for name, value in figures["milliseconds"].items()],
            ),
            "",
            "A shard of an engine on another device:",
            "",
            rows(["checks", "answers a second", "without rules", "with them", "longer by"], shards),
        ]
    )


if __name__ == "__main__":
    main()
