"""The files that a job's records name, fetched into a folder beside the records."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias

import orjson

from orchestrator.cli.output import CommandError
from orchestrator.cli.saving import save_file

RECORDS = "records.jsonl"
THREADS = 8
AHEAD = 64
"""Items whose files are fetched before those of the first of them are there."""
Fetch: TypeAlias = Callable[[str], bytes]
"""The file of a name."""


def fetched(
    fetch: Fetch, folder: Path, field: Literal["images", "audio"]
) -> Iterator[tuple[dict[str, Any], list[str]]]:  # records: any JSON
    """Each record of `folder` with the paths of its files, once they are there, in a folder of the field's name.

    Some items are under way at any moment. A file that is there already, and whole, is not fetched again.
    """
    (folder / field).mkdir(exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        records = lines(folder)
        waiting: deque[tuple[dict[str, Any], list[Future[str]]]] = deque()

        def begin(count: int) -> None:
            for line in islice(records, count):
                record = orjson.loads(line)
                fetching = [pool.submit(_fetch, fetch, folder, field, file) for file in record.get(field, ())]
                waiting.append((record, fetching))

        begin(AHEAD)
        try:
            while waiting:
                record, fetching = waiting.popleft()
                yield record, [each.result() for each in fetching]
                begin(1)
        finally:
            for _, rest in waiting:
                for each in rest:
                    each.cancel()


def lines(folder: Path) -> Iterator[bytes]:
    """The records of a folder."""
    with (folder / RECORDS).open("rb") as file:
        yield from (line for line in file if line.strip())


def _fetch(fetch: Fetch, folder: Path, field: str, file: dict[str, Any]) -> str:  # of a record: any JSON
    """One file; its path from the folder on."""
    # The name is the service's word: what is no plain name would leave the folder.
    name = Path(file["key"]).name
    path = folder / field / name
    if not (path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == file["sha256"]):
        data = fetch(name)
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise CommandError(f"{name} arrived damaged; run the command again")
        save_file(path, [data])
    return f"{field}/{name}"
