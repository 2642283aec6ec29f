"""What can be told of a job before its source is read, beyond what `JobSpec` refuses: models, templates, adapters."""

from __future__ import annotations

from collections.abc import Callable, Container
from datetime import datetime
from typing import TypeAlias

from models import weights
from models.audio_catalog import AUDIO_MODELS, UnknownVoiceError, check_audio_model
from models.catalog import MODELS, check_model
from models.errors import ModelError
from models.image_catalog import IMAGE_MODELS, check_image_model, uses_model
from models.training_run import TRAINED_NAME, VERSION
from orchestrator.accept_spec import check_accept_rules
from orchestrator.dataset_rules import check_dataset_rules
from orchestrator.dataset_spec import check_plan
from orchestrator.deadlines import resolve_deadline
from orchestrator.spec import JobSpec
from orchestrator.spec_error import SpecError
from orchestrator.table_spec import TableFields
from orchestrator.train_spec import check_base
from workers.prompts import PromptError, PromptTemplate
from workers.schemas import SchemaError, check_schema
from workers.trained_models import TrainedModel

FindTrained: TypeAlias = Callable[[str], TrainedModel]
"""Raises UnknownModelError where there is no trained model of a name."""


def check_static(
    spec: JobSpec,
    now: datetime,
    *,
    allow_faults: bool = False,
    find_trained: FindTrained | None = None,
    find_adapter: FindTrained | None = None,
    find_table: FindTrained | None = None,
) -> None:
    """Check all that can be told without reading the source.

    Templates compile, the model is known, the schema can be enforced, the deadline is ahead, and the echo model's
    faults are allowed here.

    Args:
        spec: The job.
        now: Its submission.
        allow_faults: Whether the echo model may be told to fail.
        find_trained: Looks for a model that was trained; without it one that may be is left for later.
        find_adapter: The same of an adapter.
        find_table: The same of a model of tables.

    Raises:
        SpecError: one of them does not hold.
    """
    if spec.options is not None and not allow_faults:
        raise SpecError(
            "options: the echo model's faults are switched off; set NIGHTMILL_ALLOW_FAULTS=1 where tests run",
            param="options",
        )
    if spec.replay is not None:
        raise SpecError("replay is for the service itself; use `nightmill replay JOB INDEX`", param="replay")
    if spec.upstream is not None:
        raise SpecError("upstream is for the service itself; write a flow: kind: flow, with nodes", param="upstream")
    if spec.requests is not None:
        raise SpecError("requests is for the service itself; create a batch with POST /v1/batches", param="requests")
    for name, node in (spec.nodes or {}).items():
        _check_node(name, node, now, allow_faults=allow_faults, find_trained=find_trained, find_adapter=find_adapter)
    _check_model(spec, find_table if spec.kind == "tabular" else find_trained)
    _check_adapters(spec, find_adapter)
    compile_templates(spec.over_rows())
    check_plan(spec)
    if spec.output_schema is not None:
        try:
            check_schema(spec.output_schema)
        except SchemaError as error:
            raise SpecError(f"schema: {error}", param="schema") from error
    check_accept_rules(spec.accept, structured=spec.structured)
    if spec.kind == "dataset":
        check_dataset_rules(spec, spec.accept, grid=spec.source.grid or (), known=spec.known_fields)
    if spec.deadline is not None:
        resolve_deadline(spec.deadline, now)


def _check_node(
    name: str,
    node: JobSpec,
    now: datetime,
    *,
    allow_faults: bool,
    find_trained: FindTrained | None,
    find_adapter: FindTrained | None,
) -> None:
    try:
        check_static(node, now, allow_faults=allow_faults, find_trained=find_trained, find_adapter=find_adapter)
    except SpecError as error:
        raise error.within(f"nodes.{name}") from error


def _check_model(spec: JobSpec, find_trained: FindTrained | None) -> None:
    try:
        match spec.kind:
            case "flow":
                pass  # its nodes have models
            case "train":
                _check_base(spec)
            case "audio":
                check_audio_model(spec.model, spec.audio)
            case "image":
                _check_image_model(spec, find_trained)
            case "tabular":
                check_table(spec, find_trained)
            case _:
                check_text_model(spec)
    except UnknownVoiceError as error:
        param = f"audio.{error.param}"
        raise SpecError(f"{param}: {error.message}", param=param, code=error.code) from error
    except ModelError as error:
        raise SpecError(f"model: {error.message}", param="model", code=error.code) from error


def _check_image_model(spec: JobSpec, find_trained: FindTrained | None) -> None:
    _refuse_model(spec, AUDIO_MODELS, "speaks; set kind: audio")
    if not may_be_trained(spec):
        check_image_model(spec.model, spec.steps)
    elif find_trained is not None:
        find_trained(spec.model)


def check_text_model(spec: JobSpec) -> None:
    """See that a text job's model is known, and writes text.

    Raises:
        ModelError: it is not known.
        SpecError: it does something else.
    """
    _refuse_model(spec, AUDIO_MODELS, "speaks; set kind: audio")
    _refuse_model(spec, IMAGE_MODELS, "makes images; set kind: image")
    check_model(spec.model, spec.engine)


def _refuse_model(spec: JobSpec, others: Container[str], why: str) -> None:
    if spec.model in others and spec.model != "echo":  # which does everything
        raise SpecError(f"model: {spec.model!r} {why}", param="model", code="wrong_kind")


def check_table(spec: JobSpec, find_table: FindTrained | None) -> TrainedModel | None:
    """The model that a table is sampled from, where it can be looked for; what is asked of it is checked.

    Raises:
        UnknownModelError: there is none of the name.
        SpecError: a condition or a rule does not fit its columns.
    """
    name, _, version = spec.model.partition("@")
    if TRAINED_NAME.fullmatch(name) is None or (version and VERSION.fullmatch(version) is None):
        message = (
            f"model: {spec.model!r} can be no table model's name; give NAME or NAME@VERSION of one that was fitted"
        )
        raise SpecError(message, param="model")
    if find_table is None or spec.table is None:
        return None
    from models.tabular.engine import TableRequest  # noqa: PLC0415 - pyarrow, which few jobs need
    from models.tabular.requests import check_request  # noqa: PLC0415 - as above
    from workers.table_accept.expressions import RuleError, check_rules  # noqa: PLC0415 - and duckdb

    model, table = find_table(spec.model), spec.table
    _check_linked(table, model)
    request = TableRequest(rows=table.number, seed=0, where=table.where, rebalance=table.rebalance, impute=table.impute)
    try:
        check_request(request, model.columns)
    except ModelError as error:
        raise SpecError(f"table: {error.message}", param="table") from error
    if table.accept is not None:
        try:
            check_rules(table.accept, {column.name: column.type for column in model.columns})
        except RuleError as error:
            raise SpecError(f"table.accept.{error}", param="table.accept") from error
    return model


def _check_linked(table: TableFields, model: TrainedModel) -> None:
    """See that a table is asked for by what its model counts in: rows, a parent's rows, or subjects."""
    linked = model.linked
    if linked is None:
        if table.linked:
            given = "parent" if table.parent is not None else "subjects"
            raise _wrong_number(given, f"the rows of {model.name} stand alone; say how many: table: {{rows: 100000}}")
    elif table.rows is not None:
        wanted = "subjects: 1000, how many" if linked.parent_key is None else "parent: JOB, whose rows are the subjects"
        raise _wrong_number(
            "rows", f"the rows of {model.name} belong to subjects ({linked.foreign_key}); give {wanted}"
        )
    elif linked.parent_key is not None and table.parent is None:
        message = f"{model.name} depends on its parent; give parent: JOB, a completed job of kind tabular, in its place"
        raise _wrong_number("subjects", message)
    elif linked.parent_key is None and table.parent is not None:
        raise _wrong_number("parent", f"{model.name} was fitted without a parent; give subjects: 1000, how many")


def _wrong_number(field: str, message: str) -> SpecError:
    return SpecError(f"table.{field}: {message}", param=f"table.{field}")


def _check_base(spec: JobSpec) -> None:
    base = None if spec.training is None else spec.training.base
    if base is None or spec.data is None:
        return
    try:
        check_base(base, text=spec.data.file is not None)
    except ModelError as error:
        raise SpecError(f"training.base: {error.message}", param="training.base", code=error.code) from error


def may_be_trained(spec: JobSpec) -> bool:
    """Whether an image job's model is none that Nightmill brings along, and has a name that a trained one may have."""
    name, _, version = spec.model.partition("@")
    if spec.kind != "image" or not uses_model(spec.steps) or name in IMAGE_MODELS or name in MODELS:
        return False
    return TRAINED_NAME.fullmatch(name) is not None and (not version or VERSION.fullmatch(version) is not None)


def named_adapters(spec: JobSpec) -> dict[str, str]:
    """The adapters of a job that may be ones that were trained: by name, the field that names each."""
    named = {} if spec.adapter is None else {spec.adapter: "adapter"}
    named |= dict.fromkeys(spec.image.loras, "image.loras")
    return {name: field for name, field in named.items() if not weights.is_folder_name(name)}


def adapter_versions(spec: JobSpec, find_adapter: FindTrained) -> dict[str, str]:
    """The adapters that a job names, each with the version that it comes to now.

    Raises:
        SpecError: there is no such adapter, or it is none of the job's model.
        StoreError: the store cannot be reached.
    """
    found = {}
    for name, field in named_adapters(spec).items():
        try:
            adapter = find_adapter(name)
        except ModelError as error:
            raise SpecError(f"{field}: {error.message}", param=field, code=error.code) from error
        found[name] = adapter.id
        if adapter.is_text != (spec.kind in {"text", "dataset"}):
            which = "text" if adapter.is_text else "images"
            raise SpecError(f"{field}: {name!r} is an adapter for {which}", param=field, code="wrong_kind")
        # Of a folder the worker looks whether the weights are the ones that it was trained for.
        by_folder = any(map(weights.is_folder_name, (adapter.base or "", spec.model)))
        if adapter.base != spec.model and not by_folder:
            message = f"{field}: {name!r} was trained for {adapter.base!r}, and the job's model is {spec.model!r}"
            raise SpecError(message, param=field, code="wrong_base")
    return found


def _check_adapters(spec: JobSpec, find_adapter: FindTrained | None) -> None:
    for name, field in named_adapters(spec).items():
        base, _, version = name.partition("@")
        if TRAINED_NAME.fullmatch(base) is None or (version and VERSION.fullmatch(version) is None):
            raise SpecError(
                f"{field}: {name!r} can be no adapter's name; give NAME or NAME@VERSION of one that was trained, or a "
                "folder (/path, ./path)",
                param=field,
            )
    if find_adapter is not None:
        adapter_versions(spec, find_adapter)


def compile_templates(spec: JobSpec) -> PromptTemplate:
    """The job's templates, compiled.

    Raises:
        SpecError: a template has a syntax error or asks for something that templates cannot do.
    """
    for index, message in enumerate(spec.templates):
        try:
            PromptTemplate((message,))
        except PromptError as error:
            param = template_param(spec, index)
            place = f", line {error.line} of the template" if error.line else ""
            raise SpecError(f"{param}{place}: {error.message}", param=param) from error
    return PromptTemplate(spec.templates)


def template_param(spec: JobSpec, index: int) -> str:
    """Which field of the job the template `index` came from."""
    if spec.data is not None:
        return spec.data.template_field(index)
    if spec.kind == "dataset":
        return spec.dataset_template_field(index)
    if spec.kind == "image":
        return "prompt" if index == 0 and spec.prompt is not None else "negative_prompt"
    if spec.system is not None:
        if index == 0:
            return "system"
        index -= 1
    return "prompt" if spec.messages is None else f"messages[{index}].content"
