"""What a client asks for: `JobSpec` is the API's body, the job file of the command line and the stored JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from models.catalog import MODELS, check_model
from models.errors import ModelError
from models.image_catalog import IMAGE_MODELS, check_image_model, uses_model
from models.spec import EchoOptions, JsonSchema, Message, Role, Sampling
from models.training_run import TRAINED_NAME, VERSION
from orchestrator.deadlines import resolve_deadline
from orchestrator.flow_spec import check_flow, with_sources
from orchestrator.image_spec import ImageFields, check_images, default_model, refuse_image_fields
from orchestrator.spec_error import SpecError
from orchestrator.train_spec import ROW, TrainFields, check_training
from orchestrator.validation import explain, json_type
from workers.contracts import Row, Work
from workers.prompts import PromptError, PromptTemplate
from workers.schemas import SchemaError, check_schema

__all__ = [
    "JobSpec",
    "MessageTemplate",
    "Source",
    "SpecError",
    "check_static",
    "parse_job",
    "resolve_deadline",
]

MAX_COUNT = 1_000_000_000
MAX_GRID = 100_000
"""Items that one row may make."""
MAX_SEED = (1 << 63) - 1
Text = Annotated[str, Field(min_length=1)]
FindTrained: TypeAlias = Callable[[str], object]
"""Raises UnknownModelError where there is no trained model of a name."""


class MessageTemplate(BaseModel):
    """One message of a chat; its content is a Jinja2 template over the row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    content: Text


class Source(BaseModel):
    """Where a job's rows come from: one of `file`, `items` and `count`; `grid` alone, or crossed with one of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Text | None = None
    """A path (command line only), `s3://bucket/key`, or the `nightmill://` URI of an uploaded file."""
    items: Annotated[list[Row], Field(min_length=1, max_length=100_000)] | None = None
    count: Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)] | None = None
    """This many rows that hold nothing but their number, `index`, from 0."""
    grid: Annotated[dict[Text, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)] | None = None
    """Each row is crossed with every combination of these values; the last list varies fastest."""
    custom_id: Text | None = None
    """The field that holds the client's id of a row; by default the field `custom_id`, where rows have one."""
    delimiter: str | None = None
    """Of a CSV file; by default found from its header line."""
    format: Literal["csv", "jsonl", "parquet"] | None = None
    """By default found from the file's name."""

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        value = "\t" if value in {"\\t", "tab"} else value
        if value is not None and (len(value) != 1 or value in '"\r\n'):
            raise ValueError(f"{value!r} cannot separate cells; give one character, such as ';' or '\\t'")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("file", "items", "count") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"has {' and '.join(given)}; give one of file, items and count")
        if not given and self.grid is None:
            raise ValueError("names no rows; give one of file, items, count and grid")
        if self.grid_size > MAX_GRID:
            raise ValueError(f"the grid has {self.grid_size:,} combinations; at most {MAX_GRID:,} are possible")
        if self.file is None:
            for name in ("delimiter", "format"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} is for a file, and this source has none")
        if self.items is None and self.file is None and self.custom_id is not None:
            raise ValueError("custom_id names a field of the rows, and this source has only numbers")
        return self

    @property
    def grid_size(self) -> int:
        """Items that one row makes."""
        return math.prod(len(values) for values in (self.grid or {}).values())


class JobSpec(ImageFields, TrainFields):
    """A job as its client wrote it, checked for everything that can be seen without its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    name: Annotated[str, Field(min_length=1, max_length=200)] = "untitled"
    kind: Literal["text", "image", "train", "echo", "flow"] = "text"
    model: Text = ""
    engine: Literal["auto", "vllm", "transformers", "echo"] = "auto"
    source: Source
    prompt: Text | None = None
    """A Jinja2 template over the row: the user's message. Or `messages`."""
    messages: Annotated[tuple[MessageTemplate, ...], Field(min_length=1, max_length=200)] | None = None
    system: Text | None = None
    """A template, too: the message before all others."""
    sampling: Sampling = Sampling()
    n: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    """Results per item."""
    output_schema: Annotated[JsonSchema | None, Field(alias="schema")] = None
    """A JSON Schema: each output is an object that satisfies it."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)] = 0
    priority: Literal["urgent", "normal", "low"] = "normal"
    deadline: str | None = None
    """A span from submission, or a moment: see `resolve_deadline`."""
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
    ] = Field(default_factory=dict)
    keep: tuple[str, ...] | None = None
    """Fields of the row that a record repeats as `input`; by default the grid's."""
    max_tokens_field: Text | None = None
    """The field of a row that bounds that row's outputs, in place of `sampling.max_tokens`."""
    options: EchoOptions | None = None
    nodes: dict[str, JobSpec] | None = None
    """Of a flow: its jobs by name. As they stand here their source is none; `flow_spec.node_specs` gives them all."""
    upstream: dict[str, JsonValue] | None = None
    """Of a node of a flow, written by the service itself: the nodes that it uses, with something of the shape of what
    they make."""

    @model_validator(mode="before")
    @classmethod
    def _model_of_kind(cls, data: object) -> object:
        if isinstance(data, dict) and data.get("kind") == "echo":
            return {"model": "echo", **data}
        if isinstance(data, dict) and data.get("kind") == "image" and (step := default_model(data)):
            return {"model": step, **data}
        if isinstance(data, dict) and data.get("kind") == "train":
            return {"source": ROW, **data}
        if isinstance(data, dict) and "nodes" in data:
            return with_sources(data)
        return data

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.kind == "flow":
            check_flow(self)
            return self
        if self.nodes is not None:
            raise ValueError(f"nodes is for a flow, and the job is of kind {self.kind}; set kind: flow")
        if not self.model:
            what = "say what the new one is to be called" if self.kind == "train" else "name one of those that"
            raise ValueError(f"model is missing; {what}{'' if self.kind == 'train' else ' `nightmill models` lists'}")
        if self.kind != "train":
            self._refuse_training()
        if self.kind == "image":
            self._check_image_job()
        elif self.kind == "train":
            self._check_training_job()
        else:
            refuse_image_fields(self, self.kind)
            self._check_text_job()
        if self.options is not None and self.model != "echo":
            raise ValueError("options are for the model 'echo' alone")
        return self

    def _refuse_training(self) -> None:
        for name in TrainFields.model_fields:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for training, and the job is of kind {self.kind}; set kind: train")

    def _check_image_job(self) -> None:
        self._refuse("messages", "system", "sampling", "output_schema", "max_tokens_field", "engine")
        check_images(self, prompt=self.prompt)

    def _check_training_job(self) -> None:
        refuse_image_fields(self, self.kind)
        self._refuse("prompt", "messages", "system", "sampling", "output_schema", "max_tokens_field", "engine")
        self._refuse("n", "keep", "options", what="for jobs with rows")
        if self.source != Source(**ROW):
            raise ValueError("source is for jobs with rows; a training job has data")
        check_training(self, model=self.model, seed=self.seed)

    def _refuse(self, *names: str, what: str = "for text") -> None:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                shown = type(self).model_fields[name].alias or name
                raise ValueError(f"{shown} is {what}, and the job is of kind {self.kind}")

    def _check_text_job(self) -> None:
        if self.kind == "echo" and self.model != "echo":
            raise ValueError(f"model is {self.model!r}, but a job of kind echo runs the model 'echo'; set kind: text")
        if (self.prompt is None) == (self.messages is None):
            both = self.prompt is not None
            raise ValueError(
                "the job has both prompt and messages; give one of the two"
                if both
                else "the job has no prompt; give prompt, or messages"
            )
        if self.system is not None and any(message.role == "system" for message in self.messages or ()):
            raise ValueError("the job has system, and messages has a message of role system; give one of the two")
        if self.sampling.min_tokens > self.sampling.max_tokens:
            raise ValueError(
                f"sampling.min_tokens is {self.sampling.min_tokens}, above max_tokens, {self.sampling.max_tokens}"
            )

    @property
    def templates(self) -> tuple[Message, ...]:
        """The messages of an item, as templates; of an image, prompt and negative prompt, as far as given."""
        if self.kind in {"train", "flow"}:
            return ()
        if self.kind == "image":
            return tuple(Message("user", text) for text in (self.prompt, self.negative_prompt) if text is not None)
        own = self.messages or (MessageTemplate(role="user", content=self.prompt or ""),)
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *(Message(message.role, message.content) for message in own))

    @property
    def input_fields(self) -> tuple[str, ...]:
        """Fields of a row that hold images; of a flow, those of all its nodes."""
        if self.nodes is None:
            return super().input_fields
        fields = (field for node in self.nodes.values() for field in node.input_fields if field not in self.nodes)
        return tuple(dict.fromkeys(fields))

    @property
    def kept(self) -> tuple[str, ...]:
        """Fields of a row that its record repeats."""
        return tuple(self.source.grid or ()) if self.keep is None else self.keep

    def work(self, custom_id: str | None, *, model: str | None = None, etag: str | None = None) -> Work:
        """What every shard of the job has in common.

        Args:
            custom_id: The field that holds the rows' ids, as planning found it.
            model: In place of the job's: the version of a trained model that it came to.
            etag: The version of a training's archive.
        """
        textless = self.kind in {"image", "train"}
        return Work(
            model=model or self.model,
            engine=self.engine,
            messages=() if textless else self.templates,
            sampling={} if textless else self.sampling.model_dump(mode="json"),
            seed=self.seed,
            n=self.n,
            schema=self.output_schema,
            grid={name: tuple(values) for name, values in (self.source.grid or {}).items()},
            custom_id=custom_id,
            max_tokens_field=self.max_tokens_field,
            keep=self.kept,
            options=None if self.options is None else self.options.model_dump(mode="json"),
            image=self.image_work(self.prompt) if self.kind == "image" else None,
            train=self.train_work(self.seed, etag) if self.kind == "train" else None,
            upstream=tuple(self.upstream or ()),
        )

    @property
    def input_file(self) -> str | None:
        """What the job reads: its source's file, or the folder of a training's images; None where it reads nothing."""
        return self.source.file if self.data is None else self.data.folder

    @property
    def input_param(self) -> str:
        """The field that names it."""
        return "source.file" if self.data is None else "data.folder"

    def with_source_file(self, file: str) -> JobSpec:
        """The same job, reading another file: the uploaded copy of a local one, say."""
        if self.data is not None:
            return self.model_copy(update={"data": self.data.model_copy(update={"folder": file})})
        return self.model_copy(update={"source": self.source.model_copy(update={"file": file})})

    def to_json(self) -> dict[str, Any]:  # any JSON
        """The job as `parse_job` reads it back, without what was left at its default."""
        without = {"nodes": {"__all__": {"source"}}} if self.nodes else None
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=without)


def parse_job(data: object) -> JobSpec:
    """A job from parsed JSON or YAML.

    Raises:
        SpecError: it is not a job; the message names the first fields that are wrong, and what would be right.
    """
    if not isinstance(data, dict):
        raise SpecError(f"a job is an object of fields such as name, model, source and prompt, not {json_type(data)}")
    try:
        return JobSpec.model_validate(data)
    except ValidationError as error:
        raise explain(error, JobSpec) from error


def check_static(
    spec: JobSpec, now: datetime, *, allow_faults: bool = False, find_trained: FindTrained | None = None
) -> None:
    """Check all that can be told without reading the source.

    Templates compile, the model is known, the schema can be enforced, the deadline is ahead, and the echo model's
    faults are allowed here.

    Args:
        spec: The job.
        now: Its submission.
        allow_faults: Whether the echo model may be told to fail.
        find_trained: Looks for a model that was trained; without it one that may be is left for later.

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
    for name, node in (spec.nodes or {}).items():
        _check_node(name, node, now, allow_faults=allow_faults, find_trained=find_trained)
    _check_model(spec, find_trained)
    compile_templates(spec)
    if spec.output_schema is not None:
        try:
            check_schema(spec.output_schema)
        except SchemaError as error:
            raise SpecError(f"schema: {error}", param="schema") from error
    if spec.deadline is not None:
        resolve_deadline(spec.deadline, now)


def _check_node(
    name: str, node: JobSpec, now: datetime, *, allow_faults: bool, find_trained: FindTrained | None
) -> None:
    try:
        check_static(node, now, allow_faults=allow_faults, find_trained=find_trained)
    except SpecError as error:
        raise error.within(f"nodes.{name}") from error


def _check_model(spec: JobSpec, find_trained: FindTrained | None) -> None:
    try:
        if spec.kind in {"train", "flow"}:
            return  # its model is yet to be, or its nodes have theirs
        if may_be_trained(spec):
            if find_trained is not None:
                find_trained(spec.model)
        elif spec.kind == "image":
            check_image_model(spec.model, spec.steps)
        elif spec.model in IMAGE_MODELS and spec.model != "echo":
            raise SpecError(f"model: {spec.model!r} makes images; set kind: image", param="model", code="wrong_kind")
        else:
            check_model(spec.model, spec.engine)
    except ModelError as error:
        raise SpecError(f"model: {error.message}", param="model", code=error.code) from error


def may_be_trained(spec: JobSpec) -> bool:
    """Whether an image job's model is none that Nightmill brings along, and has a name that a trained one may have."""
    name, _, version = spec.model.partition("@")
    if spec.kind != "image" or not uses_model(spec.steps) or name in IMAGE_MODELS or name in MODELS:
        return False
    return TRAINED_NAME.fullmatch(name) is not None and (not version or VERSION.fullmatch(version) is not None)


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
    if spec.kind == "image":
        return "prompt" if index == 0 and spec.prompt is not None else "negative_prompt"
    if spec.system is not None:
        if index == 0:
            return "system"
        index -= 1
    return "prompt" if spec.messages is None else f"messages[{index}].content"
