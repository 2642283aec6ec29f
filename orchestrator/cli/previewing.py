"""A small job made of the first items of a large one, and its prompts and outputs side by side."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import orjson

from orchestrator.cli.following import output_texts, row_texts
from orchestrator.cli.output import stdout
from orchestrator.client import Client
from orchestrator.flow_spec import node_specs
from orchestrator.image_spec import with_absolute_paths
from orchestrator.jobfile import is_local
from orchestrator.planning import PlannedShard, Staging, plan
from orchestrator.source_files import SourceFile, open_local, open_source
from orchestrator.spec import JobSpec, Source
from orchestrator.views import JobView
from workers.contracts import Row, SourceRange
from workers.prompts import PromptTemplate
from workers.sources import read_rows
from workers.store import ObjectStore
from workers.store_folder import FolderStore

STAGED = "nightmill-staged"
ITEM_FIELD = "nightmill_item"
Asked = list[dict[str, str]]
"""The messages of one item."""


def job_source(spec: JobSpec, staging: Staging) -> SourceFile | None:
    """The job's file, local or in S3."""
    if spec.source.file is None or is_local(spec.source.file):
        return open_local(spec)
    return open_source(spec, staging.store)


def store_of(planned: SourceRange, source: SourceFile | None, staging: Staging) -> ObjectStore:
    """Where the rows of a planned range are: in the job's own file, or in a copy that planning made."""
    uri = getattr(planned, "uri", STAGED)
    return staging.store if source is None or uri.startswith(STAGED) else source.store


def some_rows(spec: JobSpec, count: int) -> JobSpec:
    """A job of `count` rows of a table, by the same rules: rows such as the whole table will have.

    Of a linked table, those of so many subjects.
    """
    if spec.table is None:
        raise AssertionError("the job samples no table")
    number = "subjects" if spec.table.linked else "rows"
    return spec.model_copy(
        update={
            "name": f"{spec.name} (preview)"[:200],
            "table": spec.table.model_copy(update={number: count}),
            "source": Source(count=1),
            "report": False,
            "priority": "urgent",
            "deadline": None,
            "metadata": {**spec.metadata, "nightmill.preview": "true"},
        }
    )


def table_records(client: Client, job: JobView) -> list[dict[str, Any]]:  # records: any JSON
    """The rows of a small table as records to be shown, or what became of them."""
    if not job.rows:
        return client.results(job.id).data
    lines = b"".join(client.content(job.id, "jsonl")).splitlines()
    return [{"index": number, "status": "ok", "output": orjson.loads(line)} for number, line in enumerate(lines)]


class _EnoughRead(Exception):  # noqa: N818 - no error: the way out of planning once the first shards are there
    pass


def first_items(spec: JobSpec, count: int) -> tuple[JobSpec, list[Asked]]:
    """A job of the first `count` items of a job, with the same seeds, and the prompts of its items.

    Raises:
        SpecError: the source does not fit the job.
    """
    with tempfile.TemporaryDirectory(prefix="nightmill-preview-") as folder:
        staging = Staging(FolderStore(folder), STAGED)
        # All nodes of a flow have the same items.
        rows = _first_rows(next(iter(node_specs(spec).values())) if spec.nodes else spec, staging, count)
    if spec.source.file is not None and is_local(spec.source.file):
        home = Path(spec.source.file).absolute().parent
        rows = [with_absolute_paths(spec, row, home) for row in rows]
    items = list(itertools.islice(_crossed(spec, rows), count))
    template = PromptTemplate(() if spec.kind == "dataset" else spec.templates)  # a column's needs other columns
    prompts = [[{"role": one.role, "content": one.content} for one in template.render(item)] for item in items]
    source = Source(
        items=[{**item, ITEM_FIELD: str(number)} for number, item in enumerate(items)], custom_id=ITEM_FIELD
    )
    small = spec.model_copy(
        update={
            "name": f"{spec.name} (preview)"[:200],
            "source": source,
            "keep": spec.kept,
            **({"output": spec.given(spec.source.grid or ())} if spec.kind == "dataset" else {}),
            "priority": "urgent",
            "deadline": None,
            "metadata": {**spec.metadata, "nightmill.preview": "true"},
        }
    )
    return small, prompts


def _first_rows(spec: JobSpec, staging: Staging, count: int) -> list[Row]:
    """The rows that the first `count` items come from."""
    source = job_source(spec, staging)
    first: list[PlannedShard] = []

    def keep(shards: list[PlannedShard]) -> NoReturn:
        first.extend(shards)
        raise _EnoughRead

    with suppress(_EnoughRead):
        plan(spec, source, staging, on_shards=keep)
    rows: list[Row] = []
    size = spec.source.grid_size
    for shard in first:
        if len(rows) * size >= count:
            break
        # A row whose items fill several shards stands in each of them; the first is enough.
        if shard.first % size:
            continue
        rows += read_rows(shard.source, store_of(shard.source, source, staging))
    return rows


def _crossed(spec: JobSpec, rows: Sequence[Row]) -> itertools.chain[Row]:
    grid = spec.source.grid or {}
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return itertools.chain.from_iterable(({**row, **combination} for combination in combinations) for row in rows)


def print_previews(
    records: Sequence[Mapping[str, Any]],  # any JSON
    prompts: Sequence[Asked],
    *,
    as_rows: bool = False,
) -> None:
    """Each item's prompt and output, one panel an item; of a dataset each row, column by column."""
    from rich.console import Group  # noqa: PLC0415 - not for `--json`
    from rich.panel import Panel  # noqa: PLC0415 - not for `--json`
    from rich.rule import Rule  # noqa: PLC0415 - not for `--json`
    from rich.text import Text  # noqa: PLC0415 - not for `--json`

    console = stdout(widest=100)
    for record, asked in zip(records, prompts, strict=False):
        parts: list[Text | Rule] = [
            Text.assemble((f"{message['role']}: ", "bold cyan"), (message["content"].strip(), "dim"))
            for message in asked
        ]
        failed = "error" in record
        for text in row_texts(record) if as_rows else output_texts(record):
            parts += [Rule(style="dim")] if parts else []
            parts.append(Text(text.strip(), style="red" if failed else ""))
        usage = record.get("usage") or {}
        given = ", ".join(f"{key}: {value}" for key, value in (record.get("input") or {}).items())
        foot = f"{usage.get('completion_tokens', 0)} tokens, {record.get('finish_reason', record['status'])}"
        tries = record.get("checks", {}).get("tries", 1)
        foot += f", {tries} tries" if tries > 1 else ""
        if "images" in record:
            foot = f"seed {record['seed']}, {record['reproducible']}"
        if "audio" in record:
            foot = f"{record['audio'][0]['seconds']:.1f} s, {record['reproducible']}"
        if "nodes" in record or (as_rows and not usage):
            foot = str(record["status"])
        title = f"item {record['index']}{f' · {given}' if given else ''}"
        console.print(
            Panel(Group(*parts), title=Text(title), subtitle=Text(foot), title_align="left", subtitle_align="right")
        )
