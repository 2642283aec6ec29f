"""The job of scenarios over a table: rows of a fitted model under a rule over all of them, so that passes follow."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from orchestrator.client import Client
from tests.chaos.moments import Moment
from tests.chaos.run import Run
from tests.chaos.stand import Stand
from tests.chaos.verdict import Strike
from tests.support.eventually import eventually

MODEL = "visits"
FIT_SECONDS = 180.0
WHOLE_SECONDS = 180.0
"""In which a job that nothing disturbs ends."""


@dataclass(frozen=True)
class TableWork:
    """Blocks of rows of a small network, of which no two may have one number: some hundreds are drawn again."""

    rows: int = 60_000
    block: int = 500
    model: str = MODEL
    bad: ClassVar[frozenset[int]] = frozenset()
    judged: ClassVar[bool] = True

    @property
    def items(self) -> int:
        """How many the job has: a block is one."""
        return self.rows // self.block

    def small(self) -> TableWork:
        """A job that only makes everything ready."""
        return TableWork(rows=400, block=100)

    def prepare(self, client: Client, folder: Path, chance: random.Random) -> tuple[dict[str, Any], list[str]]:
        """The job file; on a stack that has no model yet, one is fitted first."""
        if not any(listed.id.partition("@")[0] == MODEL for listed in client.models()):
            self._fit(client, folder, chance)
        return self.spec(), []

    def spec(self) -> dict[str, Any]:
        """The job file."""
        accept = {"rules": ["minutes >= 2"], "unique": ["amount"], "rounds": 20}
        table = {"rows": self.rows, "block": self.block, "accept": accept}
        return {"name": "chaos", "kind": "tabular", "model": MODEL, "table": table, "report": False, "seed": 4}

    def records(self, client: Client, job: str) -> Iterable[bytes]:
        """See `workload.Work`."""
        return client.records(job)

    def is_right(self, record: dict[str, Any], answers: list[str]) -> bool:  # a record as JSON
        """Whether a block has the rows that it is to have; which ones, `as_if_nothing_had_been` sees."""
        del answers
        return bool(record["table"]["rows"] == self.block)

    def _fit(self, client: Client, folder: Path, chance: random.Random) -> None:
        rows = 400
        table = {
            "town": [chance.choice(["Graz", "Linz", "Wels"]) for _ in range(rows)],
            "minutes": [round(chance.lognormvariate(2, 0.6), 1) for _ in range(rows)],
            "amount": [chance.randrange(10, 1_000_000) for _ in range(rows)],
        }
        path = folder / "visits.csv"
        pyarrow.csv.write_csv(pa.table(table), path)
        fit = {
            "kind": "train",
            "model": MODEL,
            "data": {"file": client.upload(path).uri, "license": "CC0-1.0"},
            "training": {"family": "tabular-vae", "steps": 60, "options": {"widths": [32]}},
            "seed": 1,
        }
        job = client.submit(fit, key=f"fit {time.time_ns()}").id
        eventually(lambda: client.job(job).ended, within=FIT_SECONDS, what="the model is not fitted")
        assert client.job(job).status == "completed", client.job(job).error


def table_work(moment: Moment, chance: random.Random) -> TableWork:
    """Some seconds of drawing."""
    del moment, chance
    return TableWork()


def as_if_nothing_had_been(run: Run, strike: Strike) -> Iterable[str]:
    """Exactly the rows that were asked for, no number twice, to the byte those of a run that nothing disturbed."""
    assert isinstance(run.workload, TableWork)
    own = run.executions()
    looked_at = [each for each in run.family() if each not in own] if strike.moment == "in a pass" else own
    struck = [each for each in looked_at if each.granted_at < strike.at < (each.ended_at or strike.at + 1)]
    if all(each.ending == "finished" for each in struck):
        yield f"the fault cut nothing off {strike.moment}: there ran {struck}"
    found = _content(run.stand, run.job)
    table = pq.read_table(io.BytesIO(found))
    if table.num_rows != run.workload.rows:
        yield f"{table.num_rows} rows of {run.workload.rows}"
    if (different := pc.count_distinct(table["amount"]).as_py()) != table.num_rows:
        yield f"{table.num_rows - different} rows have an amount that another has"
    with run.stand.client() as client:
        findings = client.job(run.job).findings
        again = client.submit(run.workload.spec(), key=f"{time.time_ns()}").id
        eventually(lambda: client.job(again).ended, within=WHOLE_SECONDS, what="the run beside it does not end")
        undisturbed = client.job(again).findings
    if findings is None or undisturbed is None or not findings.drawn_again:
        yield "no pass had anything drawn again"
    elif (findings.rounds, findings.rejected) != (undisturbed.rounds, undisturbed.rejected):
        yield f"passes found {findings.rejected}, undisturbed {undisturbed.rejected}"
    if found != _content(run.stand, again):
        yield "its rows are not those of a run that nothing disturbed"


def _content(stand: Stand, job: str) -> bytes:
    with stand.client() as client:
        return b"".join(client.content(job, "parquet"))
