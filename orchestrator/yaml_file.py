"""YAML files that people write: with the line in what is wrong with them.

JSON is YAML too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from orchestrator.spec_error import SpecError

MAX_BYTES = 16 << 20
MAX_FIELDS = 100_000
"""Lines are kept for so many fields: aliases can make more of them than a file has bytes."""
YamlPath: TypeAlias = tuple[str | int, ...]
"""Where a value stands: the names and places that lead to it."""


class Loader(yaml.SafeLoader):
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
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _plain_int(_: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # YAML 1.1 reads 010 as eight.
    return int(node.value)


Loader.add_constructor("tag:yaml.org,2002:int", _plain_int)


@dataclass(frozen=True, slots=True)
class YamlFile:
    """What a file holds, and on which lines."""

    shown: str
    """The file as its owner calls it."""
    data: Any  # whatever the YAML holds
    lines: dict[YamlPath, int]

    def locate(self, error: SpecError) -> SpecError:
        """An error about one of its fields, with file and line."""
        path = param_path(error.param)
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.lines:
                return error.at(file=self.shown, line=self.lines[path[:depth]])
        return error.at(file=self.shown)


def read_yaml(file: Path, shown: str, *, what: str) -> YamlFile:
    """A file's content; None where it is empty. `what` is what the file should be, for messages.

    Raises:
        SpecError: there is no such file, or it is not YAML; with the file and the line.
    """
    data, lines = _parse(_read(file, shown, what), shown)
    return YamlFile(shown, data, lines)


def param_path(param: str | None) -> YamlPath:
    """Where the field stands that an error names (`source.items[3].name`)."""
    return tuple(int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", param or ""))


def _read(file: Path, shown: str, what: str) -> str:
    try:
        if file.is_dir():
            raise SpecError(f"is a directory; give a {what} (.yaml)", file=shown)
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise SpecError(f"there is no such {what}", file=shown) from error
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror or error}", file=shown) from error
    if len(data) > MAX_BYTES:
        raise SpecError(f"is over 16 MiB: that is no {what}", file=shown)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SpecError(f"is not UTF-8 text; save the {what} as UTF-8", file=shown, line=line) from error


def _parse(text: str, shown: str) -> tuple[Any, dict[YamlPath, int]]:  # Any: whatever the YAML holds
    try:
        loader = Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"holds the control character {error.character!r}", file=shown, line=line) from error
    try:
        node = loader.get_single_node()
        lines: dict[YamlPath, int] = {}
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


def _walk(node: yaml.Node, path: YamlPath, lines: dict[YamlPath, int], shown: str) -> None:
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
