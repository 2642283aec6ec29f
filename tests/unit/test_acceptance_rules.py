"""Rules: what each accepts, what it says of what it rejects, and how they are written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from models.backends.languages import NETWORK as LANGUAGES
from models.text_classifiers import TextClassifiers
from tests.support.networks import needs
from workers.acceptance.checks import Candidate, Checks
from workers.acceptance.measures import count_sentences, count_words
from workers.acceptance.rules import Accept, Rule
from workers.acceptance.subjects import Output
from workers.acceptance.templates import RuleError, check_rules

ROW: dict[str, Any] = {"name": "Tarnfell Jacket", "price": 89}
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


def said(rule: dict[str, Any], output: Output, row: dict[str, Any] = ROW) -> str | None:
    """What a rule has against an output."""
    accept = Accept.model_validate({"rules": [rule]})
    assert Accept.model_validate(accept.to_json()) == accept
    [verdict] = Checks(accept, TextClassifiers())([Candidate(row, output)])
    return verdict.problems[0].message if verdict.problems else None


GOOD: list[tuple[dict[str, Any], Output]] = [
    ({"words": [2, 3]}, "two words"),
    ({"words": [None, 3]}, ""),
    ({"characters": [3, 3]}, "abc"),
    ({"sentences": [2, 2]}, "It costs 3.5 euros. Buy it!"),
    ({"regex": "^[A-Z]"}, "Yes"),
    ({"regex": "(?i)jacket$"}, "A JACKET"),
    ({"expression": "name in output and price > 50"}, "The Tarnfell Jacket"),
    ({"banned": ["cheap"]}, "cheaper"),
    ({"required": ["{{ name }}", "now"]}, "Now: the tarnfell\njacket"),
    ({"numbers": "row"}, "For 89 euros"),
    ({"numbers": ["price"]}, "For 89 euros"),
    ({"schema": SCHEMA}, '{"title": "x"}'),
    ({"schema": SCHEMA, "field": "inner"}, {"inner": {"title": "x"}}),
    ({"words": [1, 1], "field": "items.1.text"}, {"items": [{"text": "a b"}, {"text": "a"}]}),
    ({"expression": "output.price == price"}, {"price": 89}),
    ({"expression": "output|length == 2", "field": "tags"}, {"tags": ["a", "b"]}),
    ({"numbers": "row"}, {"title": "Jacket", "price": 89}),
]


@pytest.mark.parametrize(("rule", "output"), GOOD)
def test_what_satisfies_a_rule_is_accepted(rule: dict[str, Any], output: Output) -> None:
    assert said(rule, output) is None


BAD: list[tuple[dict[str, Any], Output, str]] = [
    ({"words": [2, 3]}, "one", "it has 1 words; 2 to 3 are asked for"),
    ({"words": [2, None]}, "one", "it has 1 words; at least 2 are asked for"),
    ({"characters": [None, 3]}, "four", "it has 4 characters; at most 3 are asked for"),
    ({"sentences": [1, 1]}, "One. Two.", "it has 2 sentences; 1 to 1 are asked for"),
    ({"regex": "^[A-Z]"}, "no", "it does not match ^[A-Z]"),
    ({"expression": "name in output"}, "no", "it does not satisfy: name in output"),
    ({"expression": "output.title"}, {"t": 1}, "output.title cannot be told: there is no 'title' in an object with t"),
    ({"banned": ["best price"]}, "The Best\nPrice", "it holds 'Best\\nPrice', which is banned"),
    ({"banned": ["cheap"]}, {"a": ["x", {"b": "cheap"}]}, "it holds 'cheap', which is banned"),
    ({"required": ["{{ name }}"]}, "The jacket", "it lacks 'Tarnfell Jacket'"),
    ({"numbers": "row"}, "For 79 euros or 12", "it states 79, 12, which its row does not"),
    ({"numbers": "row"}, {"price": 79}, "it states 79, which its row does not"),
    ({"schema": SCHEMA}, "{}", "it does not satisfy the schema: 'title' is a required property"),
    ({"schema": SCHEMA}, "no", "it is not JSON: "),
    ({"words": [1, 2], "field": "b"}, {"a": "x"}, "the output has no b"),
    ({"pii": "reject"}, "a@b.de", "it holds an e-mail address"),
    ({"pii": "reject"}, {"a": ["x", {"b": "a@b.de"}]}, "it holds an e-mail address"),
]


@pytest.mark.parametrize(("rule", "output", "message"), BAD)
def test_what_does_not_is_told_so(rule: dict[str, Any], output: Output, message: str) -> None:
    assert (said(rule, output) or "").startswith(message)


def test_the_language_is_one_of_those_that_are_asked_for() -> None:
    needs(LANGUAGES)
    german = "Die Jacke hält bei jedem Wetter trocken und wiegt fast nichts."
    assert said({"language": "de"}, german) is None
    assert said({"language": ["en", "de"]}, german) is None
    assert said({"language": "en"}, german) == "its language is 'de'; en is asked for"
    assert said({"language": "zh"}, "这件夹克在任何天气下都能保持干燥。") is None


def test_what_is_redacted_is_what_the_other_rules_see() -> None:
    accept = Accept.model_validate({"rules": [{"words": [3, 3]}, {"pii": "redact"}, {"pii": "note", "name": "after"}]})
    output = {"title": "Mail a@b.de", "tags": ["call 555-234-5678"], "n": 3}
    [verdict] = Checks(Accept(rules=accept.rules[1:]), TextClassifiers())([Candidate(ROW, output)])
    assert verdict.output == {"title": "Mail [email]", "tags": ["call [phone]"], "n": 3}
    assert verdict.found == {"pii": {"email": 1, "phone": 1}}
    assert output["title"] == "Mail a@b.de"
    [verdict] = Checks(accept, TextClassifiers())([Candidate(ROW, "Mail a@b.de now")])
    assert (verdict.output, verdict.problems) == ("Mail [email] now", ())


def test_redacting_a_field_leaves_the_others() -> None:
    accept = Accept.model_validate({"rules": [{"pii": "redact", "field": "a.0"}]})
    [verdict] = Checks(accept, TextClassifiers())([Candidate(ROW, {"a": ["x@y.de", "x@y.de"], "b": "x@y.de"})])
    assert verdict.output == {"a": ["[email]", "x@y.de"], "b": "x@y.de"}


def test_rules_without_a_name_are_called_by_what_they_are() -> None:
    rules = [{"regex": "a"}, {"regex": "b"}, {"words": [1, 2]}, {"regex": "c", "name": "c"}, {"schema": SCHEMA}]
    assert Accept.model_validate({"rules": rules}).names == ("regex", "regex-2", "words", "c", "schema")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "has to say what it asks for: one of words, characters"),
        ({"words": [1, 2], "regex": "x"}, "exactly one of these, and this has words, regex"),
        ({"words": [2, 1]}, "the least is 2, above the most, 1"),
        ({"words": [None, None]}, "words has no bound"),
        ({"banned": ["x", " "]}, "a phrase is blank"),
        ({"regex": "x", "kinds": ["email"]}, "kinds goes with pii, and this rule is regex"),
        ({"pii": "reject", "kinds": ["mood"]}, "Input should be"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Rule.model_validate(rule)


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValidationError, match="two rules are called 'words'"):
        Accept.model_validate({"rules": [{"words": [1, 2]}, {"regex": "x", "name": "words"}]})


@pytest.mark.parametrize(
    ("rule", "structured", "message"),
    [
        ({"regex": "("}, False, "is not a regular expression of RE2"),
        ({"regex": r"(a)\1"}, False, "is not a regular expression of RE2"),
        ({"expression": "a +"}, False, "unexpected"),
        ({"expression": "a) %}{% endif %}{% if (b"}, False, "is not one expression"),
        ({"expression": "output|shout"}, False, "there is no filter 'shout'"),
        ({"required": ["{{ name"]}, False, "unexpected end of template"),
        ({"judge": {"prompt": "Is it good?"}}, False, "does not show what is judged"),
        ({"schema": {"type": "array"}}, False, "schema: the output must be an object"),
        ({"words": [1, 2]}, True, "name a field of it"),
        ({"words": [1, 2], "field": "a"}, False, "the output is a text"),
    ],
)
def test_what_cannot_be_checked_is_told_before_anything_runs(
    rule: dict[str, Any], structured: bool, message: str
) -> None:
    accept = Accept.model_validate(
        {"rules": [{"words": [1, 2], "field": "a"} if structured else {"words": [1, 2]}, rule]}
    )
    with pytest.raises(RuleError, match=message) as refused:
        check_rules(accept, structured=structured)
    assert refused.value.rule == 1


def test_the_fields_that_rules_name_are_told() -> None:
    rules = [
        {"expression": "name in output"},
        {"required": ["{{ brand }}"]},
        {"numbers": ["price"]},
        {"judge": {"prompt": "{{ output }} {{ row['the tone'] }}"}},
    ]
    fields = check_rules(Accept.model_validate({"rules": rules}), structured=False)
    assert fields == {"name": 0, "brand": 1, "price": 2, "the tone": 3}


@pytest.mark.parametrize(
    ("banned", "text", "found"),
    [
        ("cheap", "a cheap one", True),
        ("cheap", "很cheap的", True),
        ("cheap", "cheaper, uncheap", False),
        ("最低价", "我们的最低价保证", True),
        ("最低价", "最低的价", False),
        ("安い", "とても安いです", True),
        ("최저가", "최저가를 보장합니다", True),
        ("C++", "only C++!", True),
        ("heiß", "HEISS!", True),
        ("best  price", "Best\nprice.", True),
    ],
)
def test_banned_words_are_whole_words_where_there_are_spaces(banned: str, text: str, found: bool) -> None:
    assert (said({"banned": [banned]}, text) is not None) == found


def test_words_are_counted_in_every_script() -> None:
    assert count_words("A well-known 3.5 l jug, isn't it?") == 7
    assert count_words("这是一个测试。Hello world") == 8
    assert count_words("Пять слов на русском языке") == 5
    assert count_words(" — … ") == 0


def test_sentences_are_counted_by_their_ends() -> None:
    assert count_sentences("One. Two! Three") == 3
    assert count_sentences('It costs 3.5 l at example.com. "Yes."') == 2
    assert count_sentences("好的。不！为什么？") == 3
    assert count_sentences("...") == 0
