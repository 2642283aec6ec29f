"""A shard of a batch of requests: each row by its own parameters, and records that responses are made of."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from models.backends.echo import EchoBackend
from models.spec import Output, TextRequest, TextResult, Usage
from workers.contracts import ByteRange, ShardTask, Work
from workers.execute import Execution
from workers.records import item_seed
from workers.store_folder import FolderStore

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
STRICT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


class Scripted(EchoBackend):
    """Gives each request the text and the ending that the script has for its index, and remembers what was asked."""

    def __init__(self, *script: tuple[str, Any]) -> None:
        super().__init__()
        self.asked: list[TextRequest] = []
        self._script = script

    async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
        self.asked += requests
        for request in requests:
            text, reason = self._script[request.index]
            outputs = tuple(Output(text, reason, request.seed) for _ in range(request.n))
            yield [TextResult(index=request.index, outputs=outputs, usage=Usage(2, 3))]


def chat(**parameters: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": "hello there"}], **parameters}


async def run(folder: Path, bodies: Sequence[Any], backend: EchoBackend, **work: Any) -> list[dict[str, Any]]:
    store = FolderStore(folder)
    data = b"".join(orjson.dumps({"custom_id": f"c{i}", "body": body}) + b"\n" for i, body in enumerate(bodies))
    store.put("requests.jsonl", data)
    task = ShardTask(
        job="j",
        shard=0,
        token=1,
        first=0,
        count=len(bodies),
        source=ByteRange(uri="requests.jsonl", etag=None, format="jsonl", offset=0, length=len(data)),
        work=Work(
            model="echo",
            engine="auto",
            messages=(),
            sampling={},
            seed=7,
            custom_id="custom_id",
            requests="chat",
            **work,
        ),
    )
    execution = Execution(task, "E", store)
    execution.granted.set()
    part = await execution.run(backend, await backend.load())
    return [orjson.loads(line) for line in store.get(part.key).splitlines()]


async def test_each_row_is_asked_by_its_own_parameters(tmp_path: Path) -> None:
    backend = Scripted(*[("yes", "stop")] * 3)
    bodies = [chat(temperature=0, max_tokens=5), chat(seed=11, stop=["x"]), chat(n=2, response_format=None)]
    records = await run(tmp_path, bodies, backend)
    first, second, third = backend.asked
    assert (first.sampling.temperature, first.token_limit, first.fill) == (0, 5, False)
    assert (second.seed, second.sampling.stop, second.fill) == (11, ("x",), True)
    assert (third.n, third.seed) == (2, item_seed(7, 2))
    assert [record["status"] for record in records] == ["ok"] * 3
    assert [record["custom_id"] for record in records] == ["c0", "c1", "c2"]
    assert (records[0]["output"], records[0]["finish_reason"]) == ("yes", "stop")
    assert [output["text"] for output in records[2]["outputs"]] == ["yes", "yes"]
    assert "output" not in records[2]
    assert all(record["created"] > 1_700_000_000 for record in records)


async def test_a_request_that_is_wrong_costs_no_other(tmp_path: Path) -> None:
    records = await run(tmp_path, [chat(tools=[{}]), chat(), None], EchoBackend())
    assert [record["status"] for record in records] == ["failed", "ok", "failed"]
    assert (records[0]["error"]["code"], records[0]["error"]["param"]) == ("unsupported_parameter", "tools")
    assert records[2]["error"]["param"] == "body"


async def test_an_output_that_is_cut_off_is_an_answer_and_one_that_breaks_its_schema_is_none(tmp_path: Path) -> None:
    backend = Scripted(('{"a": "x"}', "stop"), ('{"a', "length"), ('{"b": 1}', "stop"), ("{", "stop"))
    records = await run(tmp_path, [chat(response_format=STRICT)] * 4, backend)
    assert [record["status"] for record in records] == ["ok", "ok", "failed", "failed"]
    assert (records[0]["output"], records[1]["output"]) == ('{"a": "x"}', '{"a')  # as it was written: no object
    assert records[1]["finish_reason"] == "length"
    assert {record["error"]["code"] for record in records[2:]} == {"invalid_output"}


async def test_what_the_service_forbids_is_forbidden_here_as_well(tmp_path: Path) -> None:
    [record] = await run(tmp_path, [chat()], EchoBackend(), deny=("hello there",))
    assert record["error"]["code"] == "prompt_denied"
