"""One execution of a pass over what a job has made, or of the report on it: the one item of a job of its own.

Its parts are read one after the other. Blocks of tables are fetched to this machine, where DuckDB reads them: its memory
is bounded, and what it asks of the disk is what the table is large.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from workers.contracts import AcceptWork, ShardTask, TableWork, pass_folder
from workers.dataset_engine import decode_part_list
from workers.item_files import Ask, Write
from workers.records import Record, RejectedPart, StoredTable, Verdict, encode_record
from workers.rejections import Rejection, Rejections, decode_rejections
from workers.store import ObjectStore
from workers.table_accept.over_all import BlockFile, BlockVerdict, judge
from workers.table_accept.rules import TableRules
from workers.training_shard import scratch


class _Block(msgspec.Struct):
    """As much of a block's record as it takes to find its rows."""

    index: int
    table: StoredTable | None = None


class _Judged(msgspec.Struct):
    """As much of the record of the pass before as it takes to know what it rejected."""

    verdict: Verdict


_blocks = msgspec.json.Decoder(_Block)
_judged = msgspec.json.Decoder(_Judged)


class DatasetShard:
    """One execution's pass or report.

    Args:
        task: The shard, of a job with `work.accept` or `work.report`.
        execution: Its own id.
        store: Nightmill's own.
        cache_dir: Where blocks are kept meanwhile; None for the system's folder for such things.
        write: Stores an object.
        ask: Asks the store for something.
    """

    def __init__(
        self,
        task: ShardTask,
        execution: str,
        store: ObjectStore,
        *,
        cache_dir: Path | None,
        write: Write,
        ask: Ask,
    ) -> None:
        self._task = task
        self._execution = execution
        self._store = store
        self._home = (cache_dir or Path(tempfile.gettempdir())) / "datasets"
        self._write = write
        self._ask = ask

    async def run(self) -> bytes:
        """Judge or describe, and return the one line of the part.

        Raises:
            StoreError: the store failed.
        """
        work = self._task.work
        with scratch(self._home, self._execution) as folder:
            if work.accept is not None:
                record = await self._judge(work.accept, folder)
            else:
                raise AssertionError("the shard is neither a pass nor a report")
        return encode_record(record) + b"\n"

    async def _judge(self, work: AcceptWork, folder: Path) -> Record:
        parts = await self._parts(work.parts)
        before = None if work.previous is None else await self._rejected_before(work.previous)
        if work.table is None:
            raise AssertionError("the pass is over no table")
        rejections, total = await self._judge_table(work.table, parts, before, folder)
        rejected: list[RejectedPart] = []
        rules: Counter[str] = Counter()
        for number, (part, found) in enumerate(rejections.items()):
            key = f"{pass_folder(work.job, self._task.job, self._execution)}{number:06d}.json"
            content = Rejections(round=work.round, found=tuple(found)).encoded()
            await self._write(key, content, "application/json")
            rejected.append(RejectedPart(part=part, key=key, rejected=sum(map(_weight, found))))
            for rejection in found:
                rules.update(rejection.rules)
        count = sum(part.rejected for part in rejected)
        verdict = Verdict(
            round=work.round,
            accepted=total - count,
            rejected=count,
            rules=dict(sorted(rules.items())),
            parts=tuple(rejected),
        )
        return Record(index=0, status="ok", verdict=verdict)

    async def _parts(self, key: str) -> tuple[str, ...]:
        return decode_part_list(await self._ask(lambda: self._store.get(key), "the list of parts is read")).parts

    async def _rejected_before(self, part: str) -> dict[int, Rejection]:
        """By item, what the pass before rejected."""
        verdict = _judged.decode(await self._ask(lambda: self._store.get(part), "the pass before is read")).verdict
        found: dict[int, Rejection] = {}
        for each in verdict.parts:
            data = await self._ask(lambda key=each.key: self._store.get(key), "what it rejected is read")
            found.update((rejection.index, rejection) for rejection in decode_rejections(data).found)
        return found

    async def _judge_table(
        self, work: TableWork, parts: tuple[str, ...], before: dict[int, Rejection] | None, folder: Path
    ) -> tuple[dict[str, list[Rejection]], int]:
        """By part, what does not stay of its blocks; and how many rows there are."""
        files: list[BlockFile] = []
        part_of: dict[int, str] = {}
        total = 0
        for part in parts:
            for block, table in await self._tables(part):
                path = folder / f"{block}.parquet"
                await self._fetch(table, path)
                fresh = None if before is None else frozenset(before[block].rows if block in before else ())
                files.append(BlockFile(block, path, fresh))
                part_of[block] = part
                total += table.rows
        rules = TableRules.model_validate(work.rules)
        verdicts = await asyncio.to_thread(judge, files, rules, folder)
        found: dict[str, list[Rejection]] = {}
        for block, verdict in verdicts.items():
            found.setdefault(part_of[block], []).append(_rejection(block, verdict))
        return found, total

    async def _tables(self, part: str) -> list[tuple[int, StoredTable]]:
        """The blocks that a part names, those that failed left out."""
        data = await self._ask(lambda: self._store.get(part), "a part is read")
        return list(_named(data))

    async def _fetch(self, table: StoredTable, path: Path) -> None:
        await self._ask(lambda: path.write_bytes(self._store.get(table.key)), "a block is read")


def _named(data: bytes) -> Iterator[tuple[int, StoredTable]]:
    for line in data.splitlines():
        record = _blocks.decode(line)
        if record.table is not None:
            yield record.index, record.table


def _rejection(block: int, verdict: BlockVerdict) -> Rejection:
    return Rejection(index=block, rows=tuple(sorted(verdict.rows)), rules=dict(sorted(verdict.rules.items())))


def _weight(rejection: Rejection) -> int:
    """Rows that a rejection is about: a text is one."""
    return len(rejection.rows) or 1
