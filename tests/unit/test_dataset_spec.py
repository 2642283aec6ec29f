"""Datasets as people write them: what goes together, what is said of what does not, and what travels to workers."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.previewing import first_items, print_previews
from orchestrator.dataset_samples import about, drawn
from orchestrator.jobfile import load_job_file
from orchestrator.planning import plan_here
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from orchestrator.speeds import shape_of
from orchestrator.static_checks import check_static
from workers.columns.kinds import parse_columns
from workers.contracts import CountRange, ShardTask, decode, encode

NOW = datetime(2031, 5, 1, 12, tzinfo=UTC)
COLUMNS: dict[str, Any] = {
    "total": {"expression": "price * 2"},
    "price": {"number": {"min": 5, "max": 9}},
    "score": {"judge": {"prompt": "Rate: {{ text }}", "max_tokens": 16}},
    "text": {"model": {"prompt": "About {{ topic }} for {{ total }}", "max_tokens": 100}},
    "topic": {"category": ["tents", "ropes"]},
    "detail": {"subset": {"of": "topic", "values": {"tents": ["poles"], "ropes": ["knots"]}}},
}
GOOD: dict[str, Any] = {"kind": "dataset", "model": "smollm2-135m", "source": {"count": 8}, "columns": COLUMNS}


def changed(**columns: Any) -> dict[str, Any]:
    return {"columns": {**COLUMNS, **columns}}


def accepting(**rule: Any) -> dict[str, Any]:
    return {"accept": {"rules": [rule]}}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no columns": ({"columns": None}, "columns is missing; a dataset needs its plan"),
    "none at all": ({"columns": {}}, "columns is empty"),
    "no kind": (changed(text={}), "columns.text: says nothing; give one of category"),
    "a misspelt kind": (changed(text={"modle": {}}), "columns.text.modle: columns.text has no field of this name; did"),
    "a misspelt field": (changed(price={"number": {"mim": 3}}), "did you mean 'min'"),
    "a field that is no number": (changed(price={"number": {"min": "x"}}), "columns.price.number.min must be a number"),
    "a prompt": ({"prompt": "x"}, "prompt is for each column of a dataset"),
    "a schema": ({"schema": {"type": "object"}}, "schema is for each column of a dataset"),
    "several results": ({"n": 2}, "n is for"),
    "columns in a text": ({"kind": "text", "prompt": "x"}, "columns is for datasets, and the job is of kind text"),
    "a name that is no word": (changed(**{"a b": {"category": ["x"]}}), "columns: 'a b' is no word; name a column by"),
    "a name with a meaning": (changed(row={"category": ["x"]}), "columns: 'row' has a meaning of its own"),
    "a name of the grid": ({"source": {"grid": {"price": [1]}}}, "columns.price: source.grid has a list of this name"),
    "itself": (changed(total={"expression": "total + 1"}), "columns.total.expression uses total, the column itself"),
    "a circle": (
        changed(price={"expression": "score"}),
        "columns need each other in a circle: ",
    ),
    "an unknown name": (
        changed(text={"model": {"prompt": "{{ topik }}"}}),
        "columns.text.model.prompt uses 'topik', and there is no column of this name; did you mean 'topic'?",
    ),
    "an unknown parent": (
        changed(detail={"subset": {"of": "topics", "values": {"a": ["b"]}}}),
        "columns.detail.subset.of uses 'topics', and there is no column of this name; did you mean 'topic'?",
    ),
    "a subset with a hole": (
        changed(detail={"subset": {"of": "topic", "values": {"tents": ["poles"]}}}),
        "columns.detail.subset.values has nothing for 'ropes', which topic can be",
    ),
    "a subset of what never is": (
        changed(detail={"subset": {"of": "topic", "values": {"tents": ["a"], "ropes": ["b"], "rope": ["c"]}}}),
        "columns.detail.subset.values has 'rope', which topic is never; did you mean 'ropes'?",
    ),
    "another model": (changed(text={"model": {"prompt": "x", "model": "echo"}}), "columns.text.model.model is 'echo'"),
    "an unknown locale": (
        changed(who={"person": {"locale": "de_DD"}}),
        "columns.who.person.locale: there is no locale 'de_DD'; did you mean 'de_DE'?",
    ),
    "a template that cannot be": (changed(text={"model": {"prompt": "{{ topic"}}), "columns.text.model.prompt"),
    "an expression that cannot be": (changed(total={"expression": "price *"}), "columns.total.expression"),
    "a schema that cannot be": (
        changed(text={"model": {"prompt": "x", "schema": {"type": "array"}}}),
        "columns.text.model.schema: the output must be an object",
    ),
    "texts that cannot be so long": (
        {"sampling": {"min_tokens": 101}},
        "columns.text.model.max_tokens is 100, below sampling.min_tokens, 101",
    ),
    "an unknown output": (
        {"output": ["text", "pric"]},
        "output names 'pric', and there is no column of this name; did",
    ),
    "an output twice": ({"output": ["text", "text"]}, "output names a column twice"),
    "shares beyond one": ({"split": {"train": 0.8, "test": 0.3}}, "split: the shares add up to 1.1, and must add up"),
    "a split's name": ({"split": {"tr ain": 1}}, "split: 'tr ain' cannot be a split's name"),
    "split_by alone": ({"split_by": "topic"}, "split_by says by what rows are split, and split is missing"),
    "split_by nothing": ({"split": {"a": 1}, "split_by": "topi"}, "did you mean 'topic'?"),
    "an unknown model": ({"model": "smolm2"}, "model: "),
    "a speech model": ({"model": "hibari-tts"}, "'hibari-tts' speaks"),
    "a rule about nothing": (
        accepting(field="txt", words=[1, 2]),
        "accept.rules[0].field: there is no column 'txt'; did",
    ),
    "a rule about all": (accepting(words=[1, 2]), "words is about one text, and the output is an object; name a field"),
    "a rule with a judge": (
        accepting(judge={"prompt": "{{ output }}"}),
        "of a dataset, a judge is a column",
    ),
    "numbers of all": (accepting(numbers="row"), "numbers needs a field"),
    "a rule with an unknown name": (accepting(expression="output.text and prize"), "did you mean 'price'?"),
    "a node of a flow": (
        {
            "kind": "flow",
            "nodes": {"a": {k: v for k, v in GOOD.items() if k != "source"}},
            "columns": None,
            "model": None,
        },
        "nodes.a.kind is dataset; a node is text or image",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_go_together_is_named(name: str) -> None:
    change, says = BAD[name]
    with pytest.raises(SpecError) as refused:
        check_static(parse_job({key: value for key, value in {**GOOD, **change}.items() if value is not None}), NOW)
    assert says in refused.value.message
    assert refused.value.param is not None or "circle" in says or "node" in name


def test_a_plan_is_put_in_order_and_travels() -> None:
    spec = parse_job(GOOD)
    check_static(spec, NOW)
    assert list(spec.plan) == ["price", "total", "topic", "text", "score", "detail"]
    assert parse_job(spec.to_json()) == spec
    work = spec.work(None)
    source = CountRange(start=0, count=8)
    task = ShardTask(job="j", shard=0, token=1, first=0, count=8, source=source, work=work)
    read = decode(encode(task), ShardTask)
    assert read.work == work
    assert work.messages == ()
    assert work.dataset is not None
    assert list(work.dataset.columns) == list(spec.plan)
    assert work.dataset.output == tuple(COLUMNS)
    assert parse_columns(work.dataset.columns) == spec.columns
    assert shape_of(spec) == "2 columns, 128 tokens"


def test_a_row_has_what_output_says_else_the_grid_and_all_columns() -> None:
    crossed = parse_job({**GOOD, "source": {"count": 2, "grid": {"tone": ["warm"]}}})
    assert crossed.given(crossed.source.grid or ()) == ("tone", *COLUMNS)
    assert crossed.kept == ()
    chosen = parse_job({**GOOD, "output": ["text", "index"]})
    assert chosen.given(()) == ("text", "index")


def test_what_is_drawn_can_be_seen_before_a_model_is_asked() -> None:
    spec = parse_job({**GOOD, "columns": {**COLUMNS, "loud": {"expression": "text | upper"}}})
    rows = drawn(spec, spec.seed, [{"index": 0}, {"index": 1}])
    assert [list(row) for row in rows] == [["price", "total", "topic", "detail"]] * 2
    assert all(row["total"] == 2 * row["price"] for row in rows)
    words = {name: about(column) for name, column in spec.plan.items()}
    assert words["topic"] == "one of tents, ropes"
    assert words["score"] == "judged by the model, 1 to 5"
    odd = parse_job({**GOOD, "columns": {"a": {"expression": "1 // index"}}})
    with pytest.raises(SpecError, match=r"columns\.a: integer division or modulo by zero \(item 0\)"):
        drawn(odd, 0, [{"index": 0}])


def rows_of(tmp_path: Path, text: str, **fields: Any) -> JobSpec:
    path = tmp_path / "rows.csv"
    path.write_text(text)
    return parse_job({**GOOD, "source": {"file": str(path)}, **fields})


def test_rows_of_a_file_are_checked_against_the_plan(tmp_path: Path) -> None:
    columns = {"text": {"model": {"prompt": "{{ name }} {{ note }}"}}, "note": {"expression": "name | upper"}}
    plan_here(rows_of(tmp_path, "name\ntent\n", columns=columns, output=["name", "text"]))
    for text, fields, says in (
        ("nam\ntent\n", {}, "did you mean 'nam'"),
        ("name,note\ntent,x\n", {}, "'note' is a column of the plan, and also a field of the rows; give the column"),
        ("name\ntent\n", {"output": ["nme"]}, "output names 'nme', and there is no column of this name; did you mean"),
        ("name\ntent\n", {"accept": {"rules": [{"expression": "nme"}]}}, "names the field 'nme'"),
    ):
        with pytest.raises(SpecError) as refused:
            plan_here(rows_of(tmp_path, text, columns=columns, **fields))
        assert says in refused.value.message


def test_a_plan_that_asks_no_model_names_none() -> None:
    spec = parse_job({"kind": "dataset", "source": {"count": 3}, "columns": {"a": {"category": ["x"]}}})
    assert spec.model == "echo"
    check_static(spec, NOW)


@pytest.mark.parametrize(
    "name", ["classification-balanced", "instruction-pairs", "paraphrases", "product-qa", "support-dialogues"]
)
def test_the_examples_are_plans(name: str) -> None:
    spec = load_job_file(Path("examples") / f"{name}.yaml", [])
    check_static(spec, NOW)
    summary = plan_here(spec)
    assert spec.kind == "dataset"
    assert summary.items >= 10


def test_a_preview_makes_the_first_rows_as_the_job_would(capsys: pytest.CaptureFixture[str]) -> None:
    spec = parse_job({**GOOD, "source": {"count": 8, "grid": {"tone": ["warm", "bold"]}}})
    small, prompts = first_items(spec, 3)
    assert small.output == ("tone", *COLUMNS)
    assert prompts == [[], [], []]
    items = small.source.items or []
    assert [(item["index"], item["tone"]) for item in items] == [(0, "warm"), (0, "bold"), (1, "warm")]
    whole = [{"index": index // 2, "tone": ["warm", "bold"][index % 2]} for index in range(8)]
    assert drawn(small, small.seed, items) == drawn(spec, spec.seed, whole)[:3]
    check_static(small, NOW)
    plan_here(small)
    print_previews([{"index": 0, "status": "ok", "output": {"tone": "warm", "score": 4}}], prompts, as_rows=True)
    shown = capsys.readouterr().out
    assert "tone: warm" in shown
    assert "score: 4" in shown
