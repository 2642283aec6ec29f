"""Rules as checks: whether an output of a row is accepted, and what is wrong with it where it is not.

Made once a shard. What a check says of an output is read by people in the record, and by the model that is asked again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from models.spec import Message
from models.text_classifiers import TextClassifiers
from workers.acceptance.measures import count_sentences, count_words
from workers.acceptance.numbers import RowNumbers, numbers_in
from workers.acceptance.pii import PiiFinder, describe, redact
from workers.acceptance.rules import Accept, Bounds, Rule
from workers.acceptance.subjects import MissingFieldError, Output, Subject, leaves, subject, with_texts
from workers.acceptance.templates import OUTPUT, expression_template
from workers.contracts import Row
from workers.prompts import PromptError, PromptTemplate
from workers.schemas import Validator
from workers.screening import DenyList

_Test = Callable[[Row, Subject], str | None]
"""Says what is wrong; None where nothing is."""


class Candidate(msgspec.Struct, frozen=True):
    """An output, and the row that it was made from."""

    row: Row
    output: Output


class Problem(msgspec.Struct, frozen=True):
    """Why a rule rejects an output."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


class Verdict(msgspec.Struct, frozen=True):
    """What the rules say of an output."""

    output: Output
    """As it is to be kept: where a rule redacts, without what it found."""
    problems: tuple[Problem, ...] = ()
    """None where it is accepted, as far as can be said without a judge."""
    found: dict[str, dict[str, int]] = {}
    """By rule, what a rule that redacts or notes found, by kind."""


class Checks:
    """The rules of a job that need no model of its own; `judge` rules are `workers.acceptance.judging`.

    Args:
        accept: The rules.
        classifiers: Asked by the rules that need one.

    Raises:
        PromptError: a template cannot be compiled.
    """

    def __init__(self, accept: Accept, classifiers: TextClassifiers) -> None:
        named = list(zip(accept.names, accept.rules, strict=True))
        self._pii = [(name, rule, PiiFinder(classifiers, rule.kinds, rule.regions)) for name, rule in named if rule.pii]
        self._tests = [(name, rule.field, _TESTS[rule.kind](rule)) for name, rule in named if rule.kind in _TESTS]
        self._languages = [(name, rule) for name, rule in named if rule.language is not None]
        self._toxicity = [(name, rule) for name, rule in named if rule.toxicity is not None]
        self._classifiers = classifiers

    def __call__(self, candidates: Sequence[Candidate]) -> list[Verdict]:
        """A verdict on each; may take seconds, and be called from any one thread at a time.

        Raises:
            ModelError: a classifier that a rule needs cannot be loaded.
        """
        outputs = [candidate.output for candidate in candidates]
        problems: list[list[Problem]] = [[] for _ in candidates]
        found: list[dict[str, dict[str, int]]] = [{} for _ in candidates]
        for name, rule, finder in self._pii:
            self._find(name, rule, finder, outputs, problems, found)
        exposed = [bool(of_one) for of_one in problems]
        for place, candidate in enumerate(candidates):
            problems[place] += self._test(candidate.row, outputs[place])
        self._classify(outputs, problems)
        # What is wrong may be told with what stands in the text, and that may be what is not to be told.
        shown = [
            tuple(one if one.rule in self._private else Problem(one.rule, "it is not met") for one in of_one)
            if secret
            else tuple(of_one)
            for of_one, secret in zip(problems, exposed, strict=True)
        ]
        return [Verdict(*parts) for parts in zip(outputs, shown, found, strict=True)]

    @property
    def _private(self) -> frozenset[str]:
        return frozenset(name for name, _, _ in self._pii)

    def _find(
        self,
        name: str,
        rule: Rule,
        finder: PiiFinder,
        outputs: list[Output],
        problems: list[list[Problem]],
        found: list[dict[str, dict[str, int]]],
    ) -> None:
        texts, places = [], []
        for place, output in enumerate(outputs):
            try:
                parts = list(leaves(subject(output, rule.field).value))
            except MissingFieldError:
                continue  # where nothing is, nothing is given away
            texts += parts
            places += [place] * len(parts)
        spans = dict(zip(texts, finder.find(texts), strict=True))
        for place in sorted({place for place, text in zip(places, texts, strict=True) if spans[text]}):
            own = [span for at, text in zip(places, texts, strict=True) if at == place for span in spans[text]]
            if rule.pii == "reject":
                problems[place].append(Problem(name, f"it holds {describe(own)}"))
                continue
            found[place][name] = dict(sorted(Counter(span.kind for span in own).items()))
            if rule.pii == "redact":
                outputs[place] = with_texts(outputs[place], rule.field, lambda text: redact(text, spans.get(text, ())))

    def _test(self, row: Row, output: Output) -> list[Problem]:
        problems = []
        for name, field, test in self._tests:
            try:
                message = test(row, subject(output, field))
            except MissingFieldError as error:
                message = str(error)
            if message is not None:
                problems.append(Problem(name, message))
        return problems

    def _classify(self, outputs: Sequence[Output], problems: Sequence[list[Problem]]) -> None:
        for name, rule in self._languages:
            texts, places = _texts(name, rule, outputs, problems)
            for place, guess in zip(places, self._classifiers.languages(texts), strict=True):
                if guess.code not in rule.languages:
                    wanted = " or ".join(rule.languages)
                    problems[place].append(Problem(name, f"its language is {guess.code!r}; {wanted} is asked for"))
        for name, rule in self._toxicity:
            texts, places = _texts(name, rule, outputs, problems)
            for place, score in zip(places, self._classifiers.toxicity(texts), strict=True):
                if score >= (rule.toxicity or 0):
                    what = f"it reads as offensive: {score:.2f}, and {rule.toxicity} is rejected"
                    problems[place].append(Problem(name, what))


def _texts(
    name: str, rule: Rule, outputs: Sequence[Output], problems: Sequence[list[Problem]]
) -> tuple[list[str], list[int]]:
    """What a rule looks at, of each output that has it, and whose it is."""
    texts, places = [], []
    for place, output in enumerate(outputs):
        try:
            texts.append(subject(output, rule.field).text)
        except MissingFieldError as error:
            problems[place].append(Problem(name, str(error)))
        else:
            places.append(place)
    return texts, places


def _counted(what: str, count: Callable[[str], int], bounds: Bounds | None) -> _Test:
    least, most = bounds or (None, None)
    asked = (
        f"{least} to {most}"
        if None not in {least, most}
        else f"at least {least}"
        if most is None
        else f"at most {most}"
    )

    def test(_: Row, about: Subject) -> str | None:
        found = count(about.text)
        right = (least is None or found >= least) and (most is None or found <= most)
        return None if right else f"it has {found} {what}; {asked} are asked for"

    return test


def _regex(rule: Rule) -> _Test:
    pattern = rule.regex or ""

    def test(_: Row, about: Subject) -> str | None:
        # RE2, by way of pyarrow, as in schemas: in time linear to the text.
        if pc.match_substring_regex(pa.scalar(about.text), pattern).as_py():
            return None
        return f"it does not match {pattern}"

    return test


def _expression(rule: Rule) -> _Test:
    template = expression_template(rule.expression or "")

    def test(row: Row, about: Subject) -> str | None:
        try:
            [message] = template.render({**row, OUTPUT: about.value})
        except PromptError as error:
            return f"{rule.expression} cannot be told: {error.message}"
        return None if message.content else f"it does not satisfy: {rule.expression}"

    return test


def _banned(rule: Rule) -> _Test:
    deny = DenyList(rule.banned or ())

    def test(_: Row, about: Subject) -> str | None:
        found = deny.find(about.text)
        return None if found is None else f"it holds {found!r}, which is banned"

    return test


def _required(rule: Rule) -> _Test:
    template = PromptTemplate([Message("user", text) for text in rule.required or ()])

    def test(row: Row, about: Subject) -> str | None:
        try:
            wanted = [message.content.strip() for message in template.render(row)]
        except PromptError as error:
            return f"what it must hold cannot be told: {error.message}"
        text = " ".join(about.text.split()).casefold()
        lacks = [one for one in wanted if " ".join(one.split()).casefold() not in text]
        return f"it lacks {', '.join(map(repr, lacks))}" if lacks else None

    return test


def _numbers(rule: Rule) -> _Test:
    fields = None if rule.numbers == "row" else rule.numbers

    def test(row: Row, about: Subject) -> str | None:
        known = RowNumbers(row, fields)
        strange = dict.fromkeys(number.text for number in numbers_in(about.text) if known.lacks(number))
        return f"it states {', '.join(strange)}, which its row does not" if strange else None

    return test


def _schema(rule: Rule) -> _Test:
    validator = Validator(rule.output_schema or {})

    def test(_: Row, about: Subject) -> str | None:
        value = about.value
        if isinstance(value, str):
            try:
                value = orjson.loads(value)
            except orjson.JSONDecodeError as error:
                return f"it is not JSON: {error}"
        problem = validator.error(value)
        return None if problem is None else f"it does not satisfy the schema: {problem}"

    return test


_TESTS: dict[str, Callable[[Rule], _Test]] = {
    "words": lambda rule: _counted("words", count_words, rule.words),
    "characters": lambda rule: _counted("characters", len, rule.characters),
    "sentences": lambda rule: _counted("sentences", count_sentences, rule.sentences),
    "regex": _regex,
    "expression": _expression,
    "banned": _banned,
    "required": _required,
    "numbers": _numbers,
    "output_schema": _schema,
}
