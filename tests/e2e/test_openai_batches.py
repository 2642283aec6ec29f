"""A batch through the whole of Nightmill, with the plain `openai` client, as the example has it."""

from __future__ import annotations

import subprocess
import sys

import openai
import orjson

from tests.support.commands import ROOT, Nightmill


def test_the_example_runs_against_a_running_stack(anywhere: Nightmill) -> None:
    anywhere.run("up", "--detach", "--port", "0")
    url = anywhere.json("status")["url"]
    said = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "openai_batch.py"), url, "echo"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = [orjson.loads(line) for line in said.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"product-{number}" for number in range(4)]
    [first, *_] = (line["response"]["body"]["choices"][0]["message"]["content"] for line in lines)
    assert first == "Write one sentence about a tent for two."
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any") as client:
        [batch] = client.batches.list()
        assert (batch.status, batch.metadata) == ("completed", {"team": "shop"})
        assert client.batches.retrieve(batch.id) == batch
    [job] = anywhere.json("jobs")
    assert (job["name"], job["status"], job["counts"]["ok"]) == (batch.id, "completed", 4)
    anywhere.run("down")
    anywhere.none_is_left()
