"""One execution of a pass over what a job has made, or of the report on it: the one item of a job of its own."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from workers.contracts import PassWork, ReportWork, ShardTask
from workers.dataset_engine import PartOf, decode_part_list
from workers.item_files import Ask, Write
from workers.keys import pass_folder
from workers.records import Record, RejectedPart, StoredReport, Verdict, earlier_records, encode_record
from workers.rejections import Rejection, Rejections, decode_rejections
from workers.store import ObjectStore
from workers.training_shard import scratch


class _Judged(msgspec.Struct):
    """As much of the record of the pass before as it takes to know what it rejected."""

    verdict: Verdict


_judged = msgspec.json.Decoder(_Judged)


class DatasetShard:
    """One execution's pass or report.

    Args:
        task: The shard, of a job with `work.pass_over` or `work.report`.
        execution: Its own id.
        store: Nightmill's own.
        cache_dir: Where blocks and signatures are kept; None for the system's folder for such things.
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
        self._cache_dir = cache_dir or Path(tempfile.gettempdir())
        self._write = write
        self._ask = ask

    async def run(self) -> bytes:
        """Judge or describe, and return the one line of the part.

        Raises:
            StoreError: the store failed.
            ModelError: a package that it needs is missing, or the rows cannot be judged.
        """
        work = self._task.work
        with scratch(self._cache_dir / "datasets", self._execution) as folder:
            if work.pass_over is not None:
                record = Record(index=0, status="ok", verdict=await self._judge(work.pass_over, folder))
            elif work.report is not None:
                record = Record(index=0, status="ok", report=await self._describe(work.report, folder))
            else:
                raise AssertionError("the shard is neither of a pass nor of a report")
        return encode_record(record) + b"\n"

    async def _judge(self, work: PassWork, folder: Path) -> Verdict:
        parts = decode_part_list(await self._get(work.parts))
        before = None
        if work.previous is not None:
            before = await self._rejected_before(work.previous)
        elif work.retried:
            before = await self._retried(work, parts.parts)
        if work.table is not None:
            from workers.table_pass import judge_table  # noqa: PLC0415 - duckdb only where there are tables

            total, found = await judge_table(work.table, parts.parts, before, folder, self._fetch)
        else:
            from workers.text_pass import judge_texts  # noqa: PLC0415 - numpy's like only where there are texts

            rules = work.duplicates or {}
            cache = self._cache_dir / "signatures"
            total, found = await asyncio.to_thread(judge_texts, rules, parts, before, folder, cache, self._store)
        return await self._keep(work, parts.parts, total, found)

    async def _keep(
        self, work: PassWork, parts: tuple[PartOf, ...], total: int, found: Mapping[int, Rejection]
    ) -> Verdict:
        """Store what does not stay, a list for each part that has something of it."""
        rejected: list[RejectedPart] = []
        rules: Counter[str] = Counter()
        waiting = iter(sorted(found))
        index = next(waiting, None)
        for part in parts:
            own: list[Rejection] = []
            while index is not None and index < part.first + part.count:
                own.append(found[index])
                rules.update(found[index].rules)
                index = next(waiting, None)
            if own:
                key = f"{pass_folder(work.job, self._task.job, self._execution)}{part.first}.json"
                await self._write(key, Rejections(round=work.round, found=tuple(own)).encoded(), "application/json")
                rejected.append(RejectedPart(part=part.key, key=key, rejected=sum(map(_weight, own))))
        count = sum(part.rejected for part in rejected)
        return Verdict(
            round=work.round,
            accepted=total - count,
            rejected=count,
            rules=dict(sorted(rules.items())),
            parts=tuple(rejected),
        )

    async def _describe(self, work: ReportWork, folder: Path) -> StoredReport:
        from workers.dataset_describing import describe  # noqa: PLC0415 - scikit-learn only for a report

        parts = decode_part_list(await self._get(work.parts))
        made = await describe(work, parts.parts, folder, self._fetch, self._store)
        place = pass_folder(work.job, self._task.job, self._execution)
        await self._write(f"{place}report.html", made.html, "text/html; charset=utf-8")
        await self._write(f"{place}report.json", made.json, "application/json")
        return StoredReport(
            html=f"{place}report.html", json=f"{place}report.json", figures=made.figures, held=made.held
        )

    async def _rejected_before(self, part: str) -> dict[int, Rejection]:
        """By item, what the pass before rejected."""
        verdict = _judged.decode(await self._get(part)).verdict
        found: dict[int, Rejection] = {}
        for each in verdict.parts:
            found.update(
                (rejection.index, rejection) for rejection in decode_rejections(await self._get(each.key)).found
            )
        return found

    async def _retried(self, work: PassWork, parts: tuple[PartOf, ...]) -> dict[int, Rejection]:
        """By item, what was not there, or not good, when a pass last judged the job: all of it is new."""
        found: dict[int, Rejection] = {}
        for part in parts:
            if part.judged is None:
                continue
            earlier = earlier_records(await self._get(part.judged)) if part.judged else {}
            for index in range(part.first, part.first + part.count):
                if index not in earlier or not earlier[index].ok:
                    rows = 0 if work.table is None else work.table.rows_of(index)
                    found[index] = Rejection(index=index, rows=tuple(range(rows)))
        return found

    async def _get(self, key: str) -> bytes:
        return await self._ask(lambda: self._store.get(key), f"{key} is read")

    async def _fetch(self, key: str, path: Path) -> None:
        """Bring an object to this machine."""

        def copy() -> None:
            with path.open("wb") as file:
                file.writelines(self._store.stream(key))

        await self._ask(copy, f"{key} is fetched")


def _weight(rejection: Rejection) -> int:
    """Rows that a rejection is about: a text is one."""
    return len(rejection.rows) or 1
