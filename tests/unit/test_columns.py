"""Columns of a plan: what samplers draw, expressions, and questions that lead to more questions."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from models.backends.echo import EchoBackend, answer
from models.errors import FailureKind, ModelError
from models.spec import EchoOptions, Message, Sampling, TextRequest, TextResult
from orchestrator.dataset_splits import Splits
from workers.columns.kinds import ColumnSpec
from workers.columns.people import locales, person_of
from workers.columns.samplers import Place, sampler
from workers.conversations import converse
from workers.expressions import Expression
from workers.prompts import PromptError

ROWS = 3000


def column(**said: Any) -> ColumnSpec:
    spec = ColumnSpec.model_validate(said)
    assert ColumnSpec.model_validate(spec.as_written()) == spec
    return spec


def drawn(count: int = ROWS, *, row: dict[str, Any] | None = None, **said: Any) -> list[Any]:
    draw = sampler("c", column(**said))
    return [draw(Place(7, index), row or {}) for index in range(count)]


def test_a_category_is_drawn_by_its_weights() -> None:
    counts = Counter(drawn(category={"a": 3, "b": 1, "never": 0}))
    assert set(counts) == {"a", "b"}
    assert counts["a"] / ROWS == pytest.approx(0.75, abs=0.03)
    assert set(drawn(category=["x", 2, True])) == {"x", 2, True}


def test_a_balanced_category_has_exact_shares_in_every_run_and_no_pattern() -> None:
    values = drawn(category={"a": 2, "b": 1}, balanced=True)
    assert all(Counter(values[start : start + 3]) == {"a": 2, "b": 1} for start in range(0, ROWS, 3))
    assert len({tuple(values[start : start + 3]) for start in range(0, ROWS, 3)}) == 3
    draw = sampler("c", column(category=["a", "b"], balanced=True))
    assert [draw(Place(7, 4, number), {}) for number in range(1, 9)] == [draw(Place(7, 4), {})] * 8


def test_numbers_follow_their_distributions_within_their_bounds() -> None:
    assert Counter(drawn(number={"min": 5, "max": 7})).keys() == {5, 6, 7}
    halves = drawn(number={"min": 0, "max": 1, "decimals": 2})
    assert statistics.mean(halves) == pytest.approx(0.5, abs=0.02)
    assert {0.0, 1.0} <= set(halves)
    normal = drawn(number={"distribution": "normal", "mean": 50, "std": 10, "decimals": 1})
    assert statistics.mean(normal) == pytest.approx(50, abs=1)
    assert statistics.stdev(normal) == pytest.approx(10, abs=0.5)
    cut = drawn(number={"distribution": "normal", "mean": 0, "std": 1, "min": 0, "max": 1, "decimals": 3})
    assert 0 <= min(cut) < max(cut) <= 1
    assert Counter(cut).most_common(1)[0][1] < 20  # what lies beyond a bound is not piled up there
    skewed = drawn(number={"distribution": "lognormal", "median": 20, "sigma": 1, "decimals": 2})
    assert statistics.median(skewed) == pytest.approx(20, rel=0.1)
    assert statistics.mean(skewed) > 1.4 * statistics.median(skewed)
    waits = drawn(number={"distribution": "exponential", "mean": 10, "decimals": 2, "max": 1000})
    assert statistics.mean(waits) == pytest.approx(10, rel=0.1)
    far = drawn(10, number={"distribution": "normal", "mean": 0, "std": 1, "min": 60, "max": 61})
    assert all(60 <= value <= 61 for value in far)


def test_dates_lie_between_their_ends() -> None:
    days = drawn(date={"from": "2026-02-27", "to": "2026-03-01"})
    assert set(days) == {"2026-02-27", "2026-02-28", "2026-03-01"}
    moments = drawn(date={"from": "2026-01-01T00:00:00", "to": "2026-01-01T00:00:02"})
    assert set(moments) == {f"2026-01-01T00:00:0{second}" for second in range(3)}


def test_a_value_depends_on_seed_row_column_and_draw_alone() -> None:
    spec = column(number={"min": 0, "max": 1_000_000})
    value = sampler("a", spec)(Place(1, 5), {})
    for _ in range(3):
        sampler("b", spec)(Place(1, 6), {})
    assert sampler("a", spec)(Place(1, 5), {"more": 1}) == value
    others = [("a", Place(2, 5)), ("a", Place(1, 6)), ("b", Place(1, 5)), ("a", Place(1, 5, 2))]
    assert value not in [sampler(name, spec)(place, {}) for name, place in others]
    pairs = zip(
        drawn(category=["x", "y"]),
        [sampler("d", column(category=["x", "y"]))(Place(7, i), {}) for i in range(ROWS)],
        strict=True,
    )
    assert all(count / ROWS == pytest.approx(0.25, abs=0.03) for count in Counter(pairs).values())


@pytest.mark.parametrize("locale", ["en_US", "de_DE", "zh_CN", "ja_JP", "ru_RU", "en_PH"])
def test_persons_are_of_their_locale_and_the_same_again(locale: str) -> None:
    spec = column(person={"locale": locale, "min_age": 20, "max_age": 21})
    assert locale in locales()
    people = [sampler("p", spec)(Place(3, index), {}) for index in range(40)]
    assert people == [sampler("p", spec)(Place(3, index), {}) for index in range(40)]
    assert {person["age"] for person in people} == {20, 21}  # type: ignore[index,call-overload]
    assert {person["gender"] for person in people} == {"female", "male"}  # type: ignore[index,call-overload]
    assert len({person["name"] for person in people}) > 30  # type: ignore[index,call-overload]
    mails = [str(person["email"]) for person in people]  # type: ignore[index,call-overload]
    assert all(mail.isascii() and mail.partition("@")[2].startswith("example.") for mail in mails)
    assert spec.person is not None
    assert person_of(spec.person, 1) == person_of(spec.person, 1) != person_of(spec.person, 2)
    address: Any = sampler("a", column(address={"locale": locale}))(Place(3, 1), {})
    assert set(address) == {"street", "postcode", "city"}


def test_a_subset_goes_with_what_the_row_has() -> None:
    said = {"of": "topic", "values": {"delivery": ["late", "lost"], "3": {"x": 1}}}
    assert set(drawn(50, row={"topic": "delivery"}, subset=said)) == {"late", "lost"}
    assert set(drawn(5, row={"topic": 3}, subset=said)) == {"x"}
    with pytest.raises(PromptError, match="there are no values for topic 'returns'; there are for delivery, 3"):
        drawn(1, row={"topic": "returns"}, subset=said)
    with pytest.raises(PromptError, match="there is no field 'topic'; did you mean 'topics'"):
        drawn(1, row={"topics": "returns"}, subset=said)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({}, "give one of category, number"),
    "two kinds": ({"category": ["a"], "expression": "1"}, "has category and expression; give one of"),
    "no values": ({"category": []}, "it has no values to draw"),
    "no weight": ({"category": {"a": 0}}, "it has no values to draw"),
    "a negative weight": ({"category": {"a": -1}}, "the weight of 'a' is -1"),
    "a value twice": ({"category": ["a", "a"]}, "'a' stands there twice; give weights"),
    "a value of another kind": ({"category": [["a"]]}, "is no value of a category"),
    "a number as values": ({"category": 3}, "it must be a list of values, or an object of weights"),
    "a balanced number": ({"number": {"min": 1, "max": 2}, "balanced": True}, "balanced is for a category"),
    "a balanced half": ({"category": {"a": 0.5}, "balanced": True}, "weights are whole numbers"),
    "no bounds": ({"number": {"min": 1}}, "max is missing; a uniform number needs min and max"),
    "bounds the wrong way": ({"number": {"min": 3, "max": 2}}, "min is 3, above max, 2"),
    "more decimals": ({"number": {"min": 0.5, "max": 2}}, "min is 0.5, and numbers have 0 decimals; set decimals"),
    "a mean of nothing": ({"number": {"min": 1, "max": 2, "mean": 1}}, "mean says nothing of a uniform number"),
    "no day": ({"date": {"from": "yesterday", "to": "2026-01-01"}}, "from is 'yesterday', and no day such as"),
    "days the wrong way": ({"date": {"from": "2026-01-02", "to": "2026-01-01"}}, "from is 2026-01-02, after to"),
    "a day and a moment": ({"date": {"from": "2026-01-01", "to": "2026-01-01T10:00:00"}}, "must both be days"),
    "ages the wrong way": ({"person": {"min_age": 30, "max_age": 20}}, "min_age is 30, above max_age, 20"),
    "no prompt": ({"model": {"max_tokens": 5}}, "needs one of prompt and messages"),
    "a judge without range": ({"judge": {"prompt": "x", "min": 5, "max": 5}}, "min is 5, and must be below max, 5"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_a_column_cannot_be_is_said(name: str) -> None:
    said, says = BAD[name]
    with pytest.raises(ValidationError) as refused:
        ColumnSpec.model_validate(said)
    assert says in str(refused.value)


VALUES: dict[str, Any] = {
    "price * 3": 9,
    "name.split() | length": 2,
    "name if price > 2 else none": "a b",
    "{'n': price, 'all': parts}": {"n": 3, "all": [1, 2]},
    "parts | map('string') | list": ["1", "2"],
    "missing is defined": False,
    "row['price'] + row.price": 6,
    "'%}'": "%}",
}


@pytest.mark.parametrize("source", VALUES)
def test_an_expression_keeps_the_kind_of_its_value(source: str) -> None:
    assert Expression(source).value({"price": 3, "name": "a b", "parts": [1, 2]}) == VALUES[source]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("price *", "unexpected 'end of template'"),
        ("{{ price }}", "an expression is written without {{ and }}"),
        ("price price", "something follows the expression"),
        ("1) %}{{ price", "an expression is written without"),
        ("1) %}{% set x = (1", "unexpected ')'"),
        ("price | nothing", "there is no filter 'nothing'"),
        ("prize", "there is no field 'prize'; did you mean 'price'"),
        ("price.__class__", "a template may not use '__class__'"),
        ("parts | map('string')", "end a sequence with |list"),
        ("2 ** 99999", "a number that is too large"),
    ],
)
def test_what_an_expression_cannot_be_or_do_is_said(source: str, says: str) -> None:
    with pytest.raises(PromptError) as refused:
        Expression(source).value({"price": 3, "parts": [1]})
    assert says in refused.value.message


def test_splits_are_by_hash_and_near_their_shares() -> None:
    splits = Splits({"train": 0.8, "test": 0.2}, seed=1)
    found = Counter(splits.of(index) for index in range(5000))
    assert found["test"] / 5000 == pytest.approx(0.2, abs=0.02)
    assert [splits.of(index) for index in range(50)] == [splits.of(index) for index in range(50)]
    assert splits.of({"a": 1, "b": 2}) == splits.of({"b": 2, "a": 1})
    assert Splits(None, seed=1).of(3) == "train"
    assert [Splits({"a": 0.5, "b": 0.5}, seed).of(1) for seed in range(40)].count("a") in range(8, 32)


def request(index: int, text: str, **options: Any) -> TextRequest:
    return TextRequest(
        index=index,
        messages=(Message("user", text),),
        sampling=Sampling(),
        seed=index,
        options=EchoOptions(**options) if options else None,
    )


def test_a_row_does_not_wait_for_a_slow_one() -> None:
    order: list[tuple[int, str]] = []

    def settle(results: Sequence[TextResult]) -> list[TextRequest]:
        following = []
        for result in results:
            text = result.outputs[0].text
            order.append((result.index, text))
            if len(text) < 3:
                following.append(request(result.index, text + "x"))
        return following

    asked = [request(0, "a", delay_ms=300.0), request(1, "a")]
    asyncio.run(converse(EchoBackend(), asked, settle))
    assert order == [(1, "a"), (1, "ax"), (1, "axx"), (0, "a"), (0, "ax"), (0, "axx")]


def test_an_engine_that_breaks_ends_the_conversation_after_what_it_had_said() -> None:
    class Breaking(EchoBackend):
        closed = 0

        async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
            try:
                yield [answer(requests[0])]
                if requests[0].index:
                    raise ModelError(FailureKind.ENGINE, "broken", "it broke")
                await asyncio.Event().wait()
            finally:
                Breaking.closed += 1

    settled: list[int] = []

    def settle(results: Sequence[TextResult]) -> list[TextRequest]:
        settled.extend(result.index for result in results)
        return [request(1, "b")] if settled == [0] else []

    with pytest.raises(ModelError, match="it broke"):
        asyncio.run(converse(Breaking(), [request(0, "a")], settle))
    assert (settled, Breaking.closed) == ([0, 1], 2)


def test_nothing_to_ask_is_no_conversation() -> None:
    settled: list[Sequence[TextResult]] = []

    def settle(results: Sequence[TextResult]) -> list[TextRequest]:
        settled.append(results)
        return []

    asyncio.run(converse(EchoBackend(), [], settle))
    assert settled == []
