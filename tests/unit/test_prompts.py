"""Prompts: what templates can do, what they cannot, and what they say when they fail."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.spec import Message
from workers.prompts import MAX_SOURCE, PromptError, PromptTemplate
from workers.template_budget import MAX_TEXT

ROW: dict[str, Any] = {
    "name": "Tent 100%",
    "price": 12.5,
    "tags": ["a", "b"],
    "nothing": None,
    "yes": True,
    "size": {"items": [1], "width": "w"},
    "Product name": "P",
    "big": "a" * 100_000,
}


def template(*contents: str) -> PromptTemplate:
    return PromptTemplate([Message("user", content) for content in contents])


def render(content: str, row: dict[str, Any] = ROW) -> str:
    return template(content).render(row)[0].content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain 100%", "plain 100%"),
        ("{{ name }}: {{ price }}", "Tent 100%: 12.5"),
        ("{{ nothing }}|{{ yes }}|{{ tags }}|{{ size }}", '|true|["a","b"]|{"items":[1],"width":"w"}'),
        ('{{ row["Product name"] }} {{ row.name }}', "P Tent 100%"),
        ("{{ row.get('x', 'y') }}{{ row | length }}", "y8"),
        ("{% for tag in tags %}{{ loop.index }}/{{ loop.length }}{{ tag }} {% endfor %}", "1/2a 2/2b "),
        (
            "{{ name | upper }} {{ name.replace('e', '3') }} {{ name | replace('T', 'x') }}",
            "TENT 100% T3nt 100% xent 100%",
        ),
        ("{{ tags | join(', ') }} {{ '/'.join(tags) }} {{ tags | map('upper') | join }}", "a, b a/b AB"),
        ("{{ size.items }} {% for k, v in size.items() %}{{ k }} {% endfor %}", "[1] items width "),
        ("{{ missing | default('d') }}{% if missing is defined %}x{% endif %}", "d"),
        ("{{ 'a' ~ price ~ yes }} {{ price * 2 }} {{ '%.2f' | format(price) }}", "a12.5true 25.0 12.50"),
        ("{% set ns = namespace(x=0) %}{% for i in range(4) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}", "6"),
        ("{{ size | tojson(indent=2) }}", '{\n  "items": [\n    1\n  ],\n  "width": "w"\n}'),
        ("{{ [{'a': 1}, {'a': 2}] | sum(attribute='a') }}{{ [{'a': 1}] | join(attribute='a') }}", "31"),
        ("{{ [{'a': 1}, {'a': 2}] | groupby('a') | map(attribute='grouper') | join(',') }}", "1,2"),
        ("{{ '<b>big</b> <!-- x --> tent' | striptags }} {{ 'x' | center(3) }}|", "big tent  x |"),
        ("{{ 'a\nb' | indent(2) }} {{ 2.567 | round(1) }} {{ 2.1 | round(0, 'ceil') }}", "a\n  b 2.6 3.0"),
        ("{{ name[:4] }}{{ 'a' in tags }}{% for a, b in [(1, 2)] %}{{ a }}{{ b }}{% endfor %}", "Tenttrue12"),
        ("{{ 7 | string }}{{ 'a b' | title }}{{ 9 % 4 }}{{ 2 ** 5 }}", "7A B132"),
    ],
)
def test_templates_write_what_they_say(content: str, text: str) -> None:
    assert render(content) == text


def test_messages_keep_their_roles_and_fields() -> None:
    prompt = PromptTemplate([Message("system", "You sell {{ brand }}"), Message("user", "{{ name }}{{ row['x y'] }}")])
    assert prompt.fields == {"brand", "name", "x y"}
    assert prompt.render({"brand": "b", "name": "n", "x y": "z"}) == (
        Message("system", "You sell b"),
        Message("user", "nz"),
    )


def test_plain_templates_are_known_as_such() -> None:
    assert template("a", "{{ name }} {{ row.x }}").plain
    for content in ("{{ name | upper }}", "{% if name %}{% endif %}", "{{ row }}", "{{ range }}", "{{ name.x }}"):
        assert not template(content).plain
    assert template("{{ range(3) | list }}{{ namespace }}").fields == frozenset()


@given(
    values=st.dictionaries(
        st.sampled_from("abc"), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text(), max_size=3),
        min_size=3,
    ),
    literal=st.text(st.characters(codec="utf-8", exclude_characters="{}#%\n\r")),
)  # fmt: skip
@settings(max_examples=100, deadline=None)
def test_the_fast_path_writes_what_jinja_writes(values: dict[str, Any], literal: str) -> None:
    plain = template(literal + "%{{ a }}" + literal + "{{ b }}{{ c }}{{ a }}.")
    # An empty loop makes it a template that Jinja2 itself renders.
    full = template("{% for x in [] %}{% endfor %}" + literal + "%{{ a }}" + literal + "{{ b }}{{ c }}{{ a }}.")
    assert plain.plain
    assert not full.plain
    assert plain.render(values) == full.render(values)


@pytest.mark.parametrize(
    ("content", "says", "field", "line"),
    [
        ("{{ nam }}", "did you mean 'name'", "nam", 1),
        ("a\n{{ colour }} {{ name | upper }}", "no field 'colour'; there is name, price", "colour", 2),
        ("a\n{{ name }}{{ colour }}", "no field 'colour'", "colour", 2),
        ("{{ size.height }}", "no 'height' in an object with items, width", None, 1),
        ("{{ tags[7] }}", "no entry 7 in a list of 2", None, 1),
        ("{{ name.size }}", "no 'size' in a text", None, 1),
        ("{{ nothing.size }}", "no 'size' in null", None, 1),
        ("{{ yes.size }}", "no 'size' in true or false", None, 1),
        ("\n\n{{ 1 / 0 }}", "division by zero", None, 3),
        ("{{ name + 1 }}", "concatenate", None, 1),
        ("{{ tags | map('upper') }}", "|join or |list", None, 1),
        ("{{ name.upper }}", "call it with ()", None, 1),
    ],
)
def test_a_row_that_does_not_fit_is_explained(content: str, says: str, field: str | None, line: int) -> None:
    with pytest.raises(PromptError) as caught:
        render(content)
    assert says in str(caught.value)
    assert (caught.value.field, caught.value.line) == (field, line)


@pytest.mark.parametrize(
    ("content", "says", "line"),
    [
        ("a\n{{ name", "unexpected end", 2),
        ("{{ Product name }}", 'row["its name"]', 1),
        ("{% if x %}", "endif", 1),
        ("\n{{ name | uper }}", "did you mean 'upper'", 2),
        ("{{ name | random }}", "no filter 'random'", 1),
        ("{{ name is blue }}", "no test 'blue'", 1),
        ("{% macro m() %}{% endmacro %}", "{% macro %}", 1),
        ("{% extends 'x' %}", "{% extends %}", 1),
        ("{% for x in [] recursive %}{% endfor %}", "recursive", 1),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "nested too deeply", None),
        ("x" * (MAX_SOURCE + 1), "the template is over", None),
    ],
)
def test_a_template_that_cannot_be_is_refused_at_once(content: str, says: str, line: int | None) -> None:
    with pytest.raises(PromptError) as caught:
        template("fine", content)
    assert says in str(caught.value)
    assert (caught.value.line, caught.value.part) == (line, 1)


DOUBLING = "{% set x = x ~ x %}" * 40
ATTACKS = [
    # out of the sandbox
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ name['__class__'] }}",
    "{{ tags | map(attribute='__class__') | list }}",
    "{{ tags | sort(attribute='__class__') }}",
    "{{ '{0.__class__}'.format(name) }}",
    "{{ '{x.__class__}'.format_map(row) }}",
    "{{ name.format.__self__ }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__ }}",
    "{{ namespace().__class__ }}",
    "{{ range.__class__ }}",
    "{% for i in [1] %}{{ loop.__class__ }}{% endfor %}",
    "{{ loop._iterator }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum.__globals__ }}",
    "{{ tags.append(1) }}",
    "{{ row.update({'a': 1}) }}",
    "{{ row.pop('name') }}",
    "{{ (1.5).fromhex }}",
    "{{ name.encode() }}",
    "{{ environment }}{{ context }}",
    "{{ tags | map('_steps', -100000000) | list }}",
    # out of memory
    "{{ 'a' * 10 ** 9 }}",
    "{{ tags * 10 ** 9 }}",
    "{{ 10 ** 99999 }}",
    "{% set n = 3 %}" + "{% set n = n * n %}" * 40 + "{{ n }}",
    "{{ range(10 ** 9) | list }}",
    "{% set x = 'ab' %}" + DOUBLING,
    "{% set x = ['ab'] %}" + DOUBLING.replace("~", "+"),
    "{% set x = ['ab'] %}" + "{% set x = [x, x] %}" * 60,
    "{% set x = ('ab',) %}" + "{% set x = (x, x) %}" * 60,
    "{% set x = {'a': 'ab'} %}" + "{% set x = {'a': x, 'b': x} %}" * 60,
    "{{ big | replace('a', big) }}",
    "{{ big.replace('a', big) }}",
    "{{ big.join(tags * 100) }}",
    "{{ ([big] * 50) | join(big) }}",
    "{{ name.ljust(10 ** 9) }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '%*d' | format(1000000000, 1) }}",
    "{{ '%.1000000000f' | format(1.5) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ [1] | batch(10 ** 9, 'x') | list }}",
    "{{ [1] | slice(10 ** 9) | list }}",
    "{{ 2 | round(10 ** 9, 'ceil') }}",
    "{{ [[1]] | sum(start=[]) }}",
    "{{ ((big ~ '\n') * 9) | indent(big) }}",
    "{{ (5).to_bytes(10 ** 9) }}",
    "{% set ns = namespace(s='') %}{% for i in range(9999) %}{% set ns.s = ns.s ~ big %}{% endfor %}",
    # out of time
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 100 + "{% endfor %}",
    "{% for i in range(99999) %}{% set y = big | upper %}{% endfor %}",
    "{% for i in range(99999) %}{% set y = 'b' in big %}{% endfor %}",
    "{% for i in range(99999) %}{% set y = big[1:] %}{% endfor %}",
    "{% for i in range(99999) %}{% set y = big.upper() %}{% endfor %}",
    "{% for i in range(99999) %}{% if big is upper %}{% endif %}{% endfor %}",
    # into the output
    "{{ big }}" * 11,
    "{% for i in range(11) %}{{ big }}{% endfor %}",
]


@pytest.mark.parametrize("content", ATTACKS)
def test_no_template_takes_the_machine(content: str) -> None:
    with pytest.raises(PromptError):
        render(content)


def test_a_template_may_be_used_after_it_failed() -> None:
    prompt = template("{% for i in range(n) %}{% for j in range(n) %}{% endfor %}{% endfor %}{{ n }}")
    with pytest.raises(PromptError, match="too many steps"):
        prompt.render({"n": 99_999})
    assert prompt.render({"n": 3})[0].content == "3"


def test_a_prompt_is_bounded_on_both_paths() -> None:
    row = {"a": "x" * MAX_TEXT}
    assert len(render("{{ a }}", row)) == MAX_TEXT
    for content in ("{{ a }}.", "{{ a }}{{ b }}", "{% if a %}{{ a }}.{% endif %}"):
        with pytest.raises(PromptError, match="over 1,048,576 characters"):
            render(content, {**row, "b": "y"})


def test_rows_are_never_changed() -> None:
    row = {"tags": ["b", "a"], "size": {"x": 1}}
    render("{{ tags | sort | join }}{% set tags = [] %}{% set row = 5 %}{{ size | dictsort | list }}", row)
    assert row == {"tags": ["b", "a"], "size": {"x": 1}}
