"""A shard of a job with rules: what is asked again, what is kept, and that it does not depend on how a job is cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
import pytest

from models.backends.echo import EchoBackend
from models.errors import FailureKind, ModelError
from models.spec import Message, Output, TextRequest, TextResult
from tests.support.parrot import Parrot
from workers.contracts import CountRange, Part, ShardTask, Work
from workers.execute import Execution
from workers.records import item_seed, read_part
from workers.store_folder import FolderStore

ITEMS = 24


def task(accept: dict[str, Any], *, first: int = 0, count: int = ITEMS, prompt: str = "Item {{ index }}") -> ShardTask:
    work = Work(model="echo", engine="auto", messages=(Message("user", prompt),), sampling={}, seed=7, accept=accept)
    source = CountRange(start=first, count=count)
    return ShardTask(job="j", shard=0, token=1, first=first, count=count, source=source, work=work)


async def run(store: FolderStore, shard: ShardTask, backend: EchoBackend | None = None) -> Part:
    execution = Execution(shard, f"E{shard.first}", store)
    execution.granted.set()
    backend = backend or Parrot()
    part = await execution.run(backend, await backend.load())
    assert read_part(part.key, store.get(part.key), first=shard.first, count=shard.count) == part
    return part


def records(store: FolderStore, part: Part) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in store.get(part.key).splitlines()]


NO_NUMBERS = {"rules": [{"regex": "^[^0-9]*$"}], "repairs": 1, "draws": 0}


async def test_what_is_right_at_once_says_nothing_of_rules(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    part = await run(store, task({"rules": [{"words": [2, 2]}]}))
    assert part.checks is None
    assert all("checks" not in record and record["status"] == "ok" for record in records(store, part))


async def test_an_item_is_asked_again_with_its_answer_and_the_reason(tmp_path: Path) -> None:
    store, parrot = FolderStore(tmp_path), Parrot()
    part = await run(store, task(NO_NUMBERS, count=1), parrot)
    [record] = records(store, part)
    assert (record["output"], record["status"]) == ("Item", "ok")
    assert record["checks"] == {"tries": 2, "repaired": True, "rules": {"regex": 1}}
    assert record["usage"] == {"prompt_tokens": 6, "completion_tokens": 10}
    first, second = parrot.asked
    assert second.messages[:2] == (*first.messages, Message("assistant", "Item 0"))
    assert "^[^0-9]*$" in second.messages[2].content
    assert (first.seed, second.seed) == (item_seed(7, 0), item_seed(7, 0, 1, 2))
    assert first.seed != second.seed
    assert record["seed"] == second.seed
    assert part.checks is not None
    figures = part.checks.rules["regex"]
    assert (part.checks.again, part.checks.repaired) == (1, 1)
    assert (figures.rejected, figures.mended, figures.failed) == (1, 1, 0)


async def test_after_the_repairs_an_item_is_drawn_anew(tmp_path: Path) -> None:
    store, parrot = FolderStore(tmp_path), Parrot()
    accept = {"rules": [{"required": ["please"], "name": "polite"}], "repairs": 0, "draws": 2}
    [record] = records(store, await run(store, task(accept, count=1), parrot))
    assert record["output"] == "Item 0 please"
    assert record["checks"] == {"tries": 3, "rules": {"polite": 2}}
    assert len({request.seed for request in parrot.asked}) == 3
    assert len({request.messages for request in parrot.asked}) == 1


async def test_an_item_of_which_nothing_is_accepted_fails_and_says_by_which_rule(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    accept = {"rules": [{"words": [2, 9]}, {"banned": ["item"]}], "repairs": 1, "draws": 1}
    part = await run(store, task(accept, count=1))
    [record] = records(store, part)
    assert record["status"] == "failed"
    assert record["error"]["code"] == "rejected"
    assert record["error"]["message"] == "after 3 tries: banned: it holds 'Item', which is banned"
    assert record["checks"]["rules"] == {"banned": 3, "words": 1}
    assert record["usage"] == {"prompt_tokens": 9, "completion_tokens": 15}
    assert part.checks is not None
    assert part.checks.rules["banned"].failed == 1


@pytest.mark.parametrize("size", [1, 5, 23])
async def test_rules_do_not_make_a_job_depend_on_how_it_is_cut(tmp_path: Path, size: int) -> None:
    store = FolderStore(tmp_path)
    rules = [{"required": ["please"]}, {"expression": "index % 2 == 0 or index|string in output"}]
    accept = {"rules": rules, "repairs": 1, "draws": 1}
    whole = store.get((await run(store, task(accept))).key)
    assert b'"tries":2' in whole
    assert b'"tries":3' in whole
    cut = [
        store.get((await run(store, task(accept, first=first, count=min(size, ITEMS - first)))).key)
        for first in range(0, ITEMS, size)
    ]
    assert b"".join(cut) == whole


async def test_a_judge_scores_what_the_other_rules_let_through(tmp_path: Path) -> None:
    store, parrot = FolderStore(tmp_path), Parrot()
    accept = {
        "rules": [{"judge": {"prompt": "{{ output }}", "min": 2}}, {"banned": ["0"]}],
        "repairs": 0,
        "draws": 1,
    }
    first, second = records(store, await run(store, task(accept, count=2), parrot))
    assert first["error"]["message"] == "after 2 tries: banned: it holds '0', which is banned"
    assert second["checks"] == {"scores": {"judge": 2}}
    assert second["usage"] == {"prompt_tokens": 6, "completion_tokens": 10}
    assert [request.index for request in parrot.asked if request.schema is not None] == [1]


async def test_a_low_score_is_a_reason_like_any(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    accept = {"rules": [{"judge": {"prompt": "{{ output }}", "min": 3}}], "repairs": 0, "draws": 2}
    [record] = records(store, await run(store, task(accept, count=1)))
    assert record["checks"] == {"tries": 3, "rules": {"judge": 2}, "scores": {"judge": 3}}


async def test_what_is_redacted_is_nowhere_in_the_record(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    part = await run(store, task({"rules": [{"pii": "redact"}]}, count=1, prompt="Write to eve@example.com"))
    [record] = records(store, part)
    assert record["output"] == "Write to [email]"
    assert record["checks"] == {"found": {"pii": {"email": 1}}}
    assert b"eve" not in store.get(part.key)
    assert part.checks is not None
    assert part.checks.rules["pii"].found == 1


async def test_what_is_rejected_for_what_it_gives_away_is_not_repeated(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    accept = {"rules": [{"pii": "reject"}, {"numbers": "row"}], "repairs": 0, "draws": 0}
    part = await run(store, task(accept, count=1, prompt="Call 555-234-5678"))
    [record] = records(store, part)
    assert record["error"]["message"] == "pii: it holds a telephone number; numbers: it is not met"
    assert b"5678" not in store.get(part.key)


async def test_what_does_not_fit_the_schema_is_asked_for_again_and_not_repeated_either(tmp_path: Path) -> None:
    store, parrot = FolderStore(tmp_path), Parrot()
    schema = {"type": "object", "properties": {"mail": {"type": "integer"}}, "required": ["mail"]}
    shard = task(
        {"rules": [{"pii": "redact"}], "repairs": 1, "draws": 0}, count=1, prompt='{"mail": "eve@example.com"}'
    )
    shard = msgspec.structs.replace(shard, work=msgspec.structs.replace(shard.work, schema=schema))
    part = await run(store, shard, parrot)
    [record] = records(store, part)
    assert record["error"]["message"] == "after 2 tries: schema: it does not fit the job's schema"
    assert record["checks"]["rules"] == {"schema": 2}
    assert b"eve" not in store.get(part.key)


async def test_an_object_is_checked_by_its_fields_and_kept_as_an_object(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    schema = {"type": "object", "properties": {"mail": {"type": "string"}}, "required": ["mail"]}
    rules = [{"pii": "redact"}, {"words": [1, 1], "field": "mail"}]
    shard = task({"rules": rules}, count=1, prompt='{"mail": "eve@example.com"}')
    shard = msgspec.structs.replace(shard, work=msgspec.structs.replace(shard.work, schema=schema))
    [record] = records(store, await run(store, shard))
    assert record["output"] == {"mail": "[email]"}


async def test_an_answer_that_the_service_allows_in_no_prompt_is_drawn_anew_and_not_repaired(tmp_path: Path) -> None:
    class Rude(Parrot):
        def _say(self, request: TextRequest) -> Output:
            said = super()._say(request)
            return said if request.seed == item_seed(7, 0, 1, 3) else Output(f"{said.text} damn", "stop", said.seed)

    accept = {"rules": [{"required": ["please"]}], "repairs": 1, "draws": 1}
    shard = task(accept, count=1)
    shard = msgspec.structs.replace(shard, work=msgspec.structs.replace(shard.work, deny=("damn",)))
    store, parrot = FolderStore(tmp_path), Rude()
    [record] = records(store, await run(store, shard, parrot))
    assert record["output"] == "Item 0 please"
    assert [len(request.messages) for request in parrot.asked] == [1, 1]


async def test_an_interrupted_shard_keeps_what_was_accepted(tmp_path: Path) -> None:
    class Stuck(Parrot):
        """Repairs nothing."""

        async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
            if len(requests[0].messages) > 1:
                self.waiting += len(requests)
                if self.waiting == 3:  # of six items that came in order: the others have ended
                    self.stuck.set()
                await asyncio.Event().wait()
            async for results in super().generate(requests):
                yield results

        def __init__(self) -> None:
            super().__init__()
            self.waiting = 0
            self.stuck = asyncio.Event()

    store, backend = FolderStore(tmp_path), Stuck()
    shard = task({"rules": [{"expression": "index % 2 == 0"}], "repairs": 1, "draws": 0}, count=6)
    execution = Execution(shard, "E", store)
    execution.granted.set()
    running = asyncio.create_task(execution.run(backend, await backend.load()))
    await backend.stuck.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    kept = await execution.salvage()
    assert kept is not None
    assert [record["index"] for record in records(store, kept)] == [0, 2, 4]


async def test_an_engine_that_breaks_ends_the_shard_with_its_own_error(tmp_path: Path) -> None:
    class Broken(Parrot):
        async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
            if len(self.asked) >= ITEMS:
                raise ModelError(FailureKind.ENGINE, "engine_died", "it broke")
            async for results in super().generate(requests):
                yield results

    store = FolderStore(tmp_path)
    with pytest.raises(ModelError, match="it broke"):
        await run(store, task(NO_NUMBERS), Broken())


async def test_an_engine_that_forgets_an_item_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Parrot):
        async def generate(self, requests: Sequence[TextRequest]) -> AsyncIterator[Sequence[TextResult]]:
            async for results in super().generate([request for request in requests if request.index != 3]):
                yield results

    with pytest.raises(AssertionError, match="1 items of 24 have no record"):
        await run(FolderStore(tmp_path), task(NO_NUMBERS), Forgetful())


async def test_an_item_that_cannot_be_answered_fails_as_it_does_without_rules(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    shard = task(NO_NUMBERS, count=2, prompt="{% if index %}hello{% else %}{{ 1 // index }}{% endif %}")
    first, second = records(store, await run(store, shard))
    assert first["error"]["code"] == "invalid_prompt"
    assert (second["status"], second["output"]) == ("ok", "hello")
