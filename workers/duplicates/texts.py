"""The texts that are compared: where they stand in a part, and the form in which they are compared."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from pydantic import JsonValue

DIGEST_BYTES = 16
_OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class PartTexts:
    """The texts of one part."""

    sha256: str
    """Of the part. Under it its signatures are kept; two parts of one digest hold the same texts."""
    texts: Callable[[], Iterable[tuple[int, str]]]
    """(index, text) in order of the index; items without a text are left out. Called only where signatures lack."""
    job: str = ""
    """Of a part of another job, that job's id."""


class _Output(msgspec.Struct):
    text: str


class _Record(msgspec.Struct):
    index: int
    status: str
    output: Any = None  # any JSON
    outputs: tuple[_Output, ...] = ()


_records = msgspec.json.Decoder(_Record)


def record_texts(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """The texts of a part of JSON lines: of its records that are `ok`, what stands at `field` (see `text_at`).

    The outputs of a record that has several count as one text, a line each; `output.0` is the first.

    Raises:
        msgspec.MsgspecError: a line is no record.
    """
    with path.open("rb") as lines:
        for line in lines:
            record = _records.decode(line)
            output = [output.text for output in record.outputs] if record.outputs else record.output
            text = text_at(output, field) if record.status == "ok" else None
            if text is not None:
                yield record.index, text


def column_texts(path: Path, column: str, first: int) -> Iterator[tuple[int, str]]:
    """The texts of a column of a Parquet file whose first row has the index `first`; missing values are left out."""
    # Whoever checks only records does without it.
    from pyarrow import parquet  # noqa: PLC0415

    with parquet.ParquetFile(path) as file:
        index = first
        for batch in file.iter_batches(batch_size=8192, columns=[column]):
            for value in batch.column(0).to_pylist():
                if value is not None:
                    yield index, str(value)
                index += 1


def text_at(output: JsonValue, field: str) -> str | None:
    """What is compared of an output: the text at a dotted path, numbers as they are written.

    Of an object or a list it is all that stands in it, a line each, without the names, which all rows share. None
    where nothing stands there.
    """
    steps = field.split(".")
    if steps[0] == _OUTPUT and not (isinstance(output, Mapping) and _OUTPUT in output):
        steps = steps[1:]
    for step in steps:
        if isinstance(output, Mapping):
            output = output.get(step)
        elif isinstance(output, list) and step.isdigit() and int(step) < len(output):
            output = output[int(step)]
        else:
            return None
    return None if output is None else "\n".join(_leaves(output))


def _leaves(value: JsonValue) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value
    elif value is not None:
        yield msgspec.json.encode(value).decode()


def normalised(text: str) -> str:
    """A text without what does not count: NFKC, case-folded, each run of white space as one space, none at the ends."""
    if not text.isascii():
        # Folding may undo the normal form, so it is made again.
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    else:
        text = text.casefold()
    return " ".join(text.split())


def digest(text: str) -> bytes:
    """The 128-bit digest of a normalised text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
