"""Job files: YAML with line numbers in its errors, and `key=value` overrides on top."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from orchestrator.image_spec import with_absolute_paths
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from workers.store import UPLOAD_SCHEME

MAX_BYTES = 16 << 20
MAX_FIELDS = 100_000
"""Lines are kept for so many fields: aliases can make more of them than a file has bytes."""
_Path: TypeAlias = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema: `no`, `on` and `12:30` are text, `1e-3` is a number, dates stay as written."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own name


for _tag, _pattern, _starts in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _first = [start.replace("\0", "") for start in _starts]
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _plain_int(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 reads 010 as eight.
    return int(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _plain_int)


def load_job_file(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """The job in a YAML (or JSON) file, with `key=value` overrides (`sampling.max_tokens=64`) applied.

    A relative `source.file` or `data.folder`, or path of an image in `source.items`, is relative to the job file. A job
    without a name gets the file's.

    Raises:
        SpecError: there is no such file, it is not YAML, or not a job; with the file and the line.
    """
    file = Path(path)
    shown = str(path)
    text = _read(file, shown)
    data, lines = _parse(text, shown)
    if data is None:
        raise SpecError("the job file is empty; it needs at least model, source and prompt", file=shown)
    overridden: dict[_Path, str] = {}
    if isinstance(data, dict):
        for override in overrides:
            overridden[_apply(data, override)] = override
        data.setdefault("name", file.stem)
    try:
        spec = parse_job(data)
    except SpecError as error:
        raise _located(error, lines, overridden, shown) from error
    source = spec.input_file
    if source is None and spec.source.items is not None and spec.input_fields:
        items = [with_absolute_paths(spec, row, file.absolute().parent) for row in spec.source.items]
        return spec.model_copy(update={"source": spec.source.model_copy(update={"items": items})})
    if source is None or "://" in source:
        return spec
    return spec.with_source_file(str(file.parent / Path(source).expanduser()))


def is_local(source_file: str) -> bool:
    """Whether a source's file is a path on this machine, not a URI."""
    return not source_file.startswith(("s3://", UPLOAD_SCHEME))


def _read(file: Path, shown: str) -> str:
    try:
        if file.is_dir():
            raise SpecError("is a directory; give a job file (.yaml)", file=shown)
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError("there is no such job file", file=shown) from error
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", file=shown) from error
    if len(data) > MAX_BYTES:
        raise SpecError("is over 16 MiB: that is no job file; name its rows under source.file", file=shown)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError("is not UTF-8 text; save the job file as UTF-8", file=shown, line=line) from error


def _parse(text: str, shown: str) -> tuple[Any, dict[_Path, int]]:  # Any: whatever the YAML holds
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"holds the control character {error.character!r}", file=shown, line=line) from error
    try:
        node = loader.get_single_node()
        lines: dict[_Path, int] = {}
        if node is not None:
            _walk(node, (), lines, shown)
        data = None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = mark.line + 1 if mark else None
        hint = "; put text that holds ': ' or '{' in quotes" if "mapping" in f"{error.problem}" else ""
        raise SpecError(f"is not valid YAML: {error.problem or error.context}{hint}", file=shown, line=place) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"is not valid YAML: {error}", file=shown) from error
    finally:
        loader.dispose()
    return data, lines


def _walk(node: yaml.Node, path: _Path, lines: dict[_Path, int], shown: str) -> None:
    if len(lines) > MAX_FIELDS:
        return
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen and name != "<<":
                raise SpecError(f"{name} is given twice; first on line {seen[name]}", file=shown, line=line)
            seen[name] = line
            lines[(*path, name)] = line
            _walk(value, (*path, name), lines, shown)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), lines, shown)


def _apply(data: dict[str, Any], override: str) -> _Path:
    key, equals, text = override.partition("=")
    steps = tuple(key.strip().split("."))
    if not equals or not all(steps):
        raise SpecError(f"--set {override}: write key=value, such as sampling.max_tokens=64")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader of our own
    except yaml.YAMLError as error:
        raise SpecError(f"--set {override}: the value is not valid YAML; put it in quotes") from error
    place = data
    for depth, step in enumerate(steps[:-1], start=1):
        inner = place.setdefault(step, {})
        if not isinstance(inner, dict):
            raise SpecError(f"--set {override}: {'.'.join(steps[:depth])} is not an object")
        place = inner
    place[steps[-1]] = value
    return steps


def _located(error: SpecError, lines: dict[_Path, int], overridden: dict[_Path, str], shown: str) -> SpecError:
    path: _Path = tuple(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", error.param or ""))
    for depth in range(len(path), 0, -1):
        if path[:depth] in overridden:
            return error.at(file=f"--set {overridden[path[:depth]]}")
        if path[:depth] in lines:
            return error.at(file=shown, line=lines[path[:depth]])
    return error.at(file=shown)
