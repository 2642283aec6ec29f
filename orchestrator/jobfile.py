"""Job files: YAML, and `key=value` overrides on top."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from orchestrator.image_spec import with_absolute_paths
from orchestrator.spec import JobSpec, parse_job
from orchestrator.spec_error import SpecError
from orchestrator.yaml_file import Loader, YamlFile, YamlPath, param_path, read_yaml
from workers.store import UPLOAD_SCHEME


def load_job_file(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """The job in a YAML (or JSON) file, with `key=value` overrides (`sampling.max_tokens=64`) applied.

    A relative path of a file or folder that the job reads, or of an image in `source.items`, is relative to the job
    file. A job without a name gets the file's.

    Raises:
        SpecError: there is no such file, it is not YAML, or not a job; with the file and the line.
    """
    file = Path(path)
    shown = str(path)
    found = read_yaml(file, shown, what="job file")
    data = found.data
    if data is None:
        raise SpecError("the job file is empty; it needs at least model, source and prompt", file=shown)
    overridden: dict[YamlPath, str] = {}
    if isinstance(data, dict):
        for override in overrides:
            overridden[_apply(data, override)] = override
        data.setdefault("name", file.stem)
    try:
        spec = parse_job(data)
    except SpecError as error:
        raise _located(error, found, overridden) from error
    files = spec.input_files
    if not files and spec.source.items is not None and spec.input_fields:
        items = [with_absolute_paths(spec, row, file.absolute().parent) for row in spec.source.items]
        return spec.model_copy(update={"source": spec.source.model_copy(update={"items": items})})
    for param, source in files.items():
        if "://" not in source:
            spec = spec.with_input(param, str(file.parent / Path(source).expanduser()))
    return spec


def is_local(source_file: str) -> bool:
    """Whether a source's file is a path on this machine, not a URI."""
    return not source_file.startswith(("s3://", UPLOAD_SCHEME))


def _apply(data: dict[str, Any], override: str) -> YamlPath:
    key, equals, text = override.partition("=")
    steps = tuple(key.strip().split("."))
    if not equals or not all(steps):
        raise SpecError(f"--set {override}: write key=value, such as sampling.max_tokens=64")
    try:
        value = yaml.load(text, Loader=Loader)  # noqa: S506 - a SafeLoader of our own
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


def _located(error: SpecError, found: YamlFile, overridden: dict[YamlPath, str]) -> SpecError:
    path = param_path(error.param)
    for depth in range(len(path), 0, -1):
        if path[:depth] in overridden:
            return error.at(file=f"--set {overridden[path[:depth]]}")
    return found.locate(error)
