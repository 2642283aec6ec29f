"""What a client asks for: `JobSpec` is the API's body, the job file of the command line and the stored JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from models.spec import EchoOptions, JsonSchema, Message, Role, Sampling
from orchestrator.accept_spec import AcceptFields, check_accept
from orchestrator.audio_spec import AudioFields, refuse_audio_fields
from orchestrator.dataset_spec import (
    INDEX,
    DatasetFields,
    asks_model,
    check_dataset,
    check_lengths,
    refuse_dataset_fields,
)
from orchestrator.findings import Passes
from orchestrator.flow_spec import check_flow, with_sources
from orchestrator.image_spec import ImageFields, check_images, default_model, refuse_image_fields
from orchestrator.spec_error import SpecError
from orchestrator.table_spec import TableJobFields, blocks_of, refuse_report, refuse_table
from orchestrator.train_spec import NO_RANGES, PARENT_FILE, ROW, TrainFields, check_training
from orchestrator.validation import explain, json_type
from workers.contracts import Row, SourceRange, TableWork, Work

MAX_COUNT = 1_000_000_000
MAX_GRID = 100_000
"""Items that one row may make."""
MAX_SEED = (1 << 63) - 1
Text = Annotated[str, Field(min_length=1)]


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


class JobSpec(ImageFields, AudioFields, TrainFields, TableJobFields, DatasetFields, AcceptFields):
    """A job as its client wrote it, checked for everything that can be seen without its rows."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False)

    name: Annotated[str, Field(min_length=1, max_length=200)] = "untitled"
    kind: Literal["text", "image", "audio", "tabular", "train", "dataset", "echo", "flow"] = "text"
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
    adapter: Text | None = None
    """Of text: a LoRA adapter of the model, `NAME` or `NAME@VERSION` of one that was trained, or a folder."""
    options: EchoOptions | None = None
    nodes: dict[str, JobSpec] | None = None
    """Of a flow: its jobs by name. As they stand here their source is none; `flow_spec.node_specs` gives them all."""
    requests: Literal["chat"] | None = None
    """Of a batch, written by the service itself: each row is a request of its own, its parameters included."""
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
        if isinstance(data, dict) and data.get("kind") == "dataset" and not asks_model(data.get("columns")):
            return {"model": "echo", **data}  # which is never asked
        if isinstance(data, dict) and data.get("kind") == "train":
            return {"source": ROW, **data}
        if isinstance(data, dict) and data.get("kind") == "tabular" and "source" not in data:
            return {"source": blocks_of(data.get("table")), **data}
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
        self._refuse_other_kinds()
        of_kind = {
            "image": self._check_image_job,
            "train": self._check_training_job,
            "audio": self._check_audio_job,
            "tabular": self._check_table_job,
            "dataset": self._check_dataset_job,
        }
        of_kind.get(self.kind, self._check_text_job)()
        if self.options is not None and self.model != "echo":
            raise ValueError("options are for the model 'echo' alone")
        return self

    def _refuse_other_kinds(self) -> None:
        if self.kind != "train":
            self._refuse_training()
        if self.kind != "dataset":
            refuse_dataset_fields(self, self.kind)
        if self.kind != "audio":
            refuse_audio_fields(self, self.kind)
        if self.kind not in {"tabular", "dataset"}:
            refuse_report(self, self.kind)
        if self.kind != "tabular":
            refuse_table(self, self.kind)
        if self.kind not in {"text", "echo", "dataset"}:
            self._refuse("accept")
        if self.kind != "text":
            self._refuse("requests")

    def _refuse_training(self) -> None:
        for name in TrainFields.model_fields:
            if getattr(self, name) is not None:
                raise ValueError(f"{name} is for training, and the job is of kind {self.kind}; set kind: train")

    def _check_image_job(self) -> None:
        self._refuse("messages", "system", "sampling", "output_schema", "max_tokens_field", "engine", "adapter")
        check_images(self, prompt=self.prompt)

    def _check_audio_job(self) -> None:
        refuse_image_fields(self, self.kind, shared=("provenance",))
        self._refuse("messages", "system", "sampling", "output_schema", "max_tokens_field", "engine", "adapter")
        self._refuse("n", what="for text and images; a voice speaks a text in one way")
        if self.prompt is None:
            raise ValueError("the job has no prompt; it is what is spoken")

    def _check_dataset_job(self) -> None:
        refuse_image_fields(self, self.kind)
        self._refuse("prompt", "messages", "system", "output_schema", what="for each column of a dataset")
        self._refuse("n", "max_tokens_field")
        check_dataset(self, model=self.model, grid=self.source.grid or {}, known=self.known_fields)
        check_lengths(self, self.sampling)

    def _check_training_job(self) -> None:
        refuse_image_fields(self, self.kind)
        self._refuse("prompt", "messages", "system", "sampling", "output_schema", "max_tokens_field", "engine")
        self._refuse("n", "keep", "options", "adapter", what="for jobs with rows")
        if self.source != Source(**ROW):
            raise ValueError("source is for jobs with rows; a training job has data")
        check_training(self, model=self.model, seed=self.seed)

    def _check_table_job(self) -> None:
        refuse_image_fields(self, self.kind)
        self._refuse("prompt", "messages", "system", "sampling", "output_schema", "max_tokens_field", "engine")
        self._refuse("n", "keep", "options", "adapter", what="for jobs with rows of their own")
        if self.table is None:
            raise ValueError("table is missing; say at least how many rows are wanted: table: {rows: 100000}")
        if self.source != Source(**blocks_of(self.table.model_dump())):
            raise ValueError("source is for jobs with rows; a table is sampled from its model")

    def passes(self) -> Passes | None:
        """What follows the job's shards, where something does."""
        return self.passes_with(self.accept)

    def _refuse(self, *names: str, what: str = "for text") -> None:
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].default:
                shown = type(self).model_fields[name].alias or name
                raise ValueError(f"{shown} is {what}, and the job is of kind {self.kind}")

    def _check_text_job(self) -> None:
        refuse_image_fields(self, self.kind)
        if self.adapter is not None and self.model == "echo":
            raise ValueError("adapter: the model 'echo' takes none")
        if self.kind == "echo" and self.model != "echo":
            raise ValueError(f"model is {self.model!r}, but a job of kind echo runs the model 'echo'; set kind: text")
        if self.requests is not None:
            own = ("prompt", "messages", "system", "sampling", "output_schema", "max_tokens_field", "n", "accept")
            self._refuse(*own, what="for jobs whose rows are no requests")
            return
        if (self.prompt is None) == (self.messages is None):
            both = self.prompt is not None
            raise ValueError(
                "the job has both prompt and messages; give one of the two"
                if both
                else "the job has no prompt; give prompt, or messages"
            )
        if self.system is not None and any(message.role == "system" for message in self.messages or ()):
            raise ValueError("the job has system, and messages has a message of role system; give one of the two")
        check_accept(self, n=self.n, temperature=self.sampling.temperature)
        if self.sampling.min_tokens > self.sampling.max_tokens:
            raise ValueError(
                f"sampling.min_tokens is {self.sampling.min_tokens}, above max_tokens, {self.sampling.max_tokens}"
            )

    @property
    def templates(self) -> tuple[Message, ...]:
        """The messages of an item, as templates; of an image or speech, its prompts, as far as given."""
        if self.data is not None:
            return self.data.templates if self.source.file is not None else ()
        if self.kind in {"train", "flow", "tabular"} or self.requests is not None:
            return ()
        if self.kind == "dataset":
            return self.dataset_templates()
        if self.kind == "audio":
            return (Message("user", self.prompt or ""),)
        if self.kind == "image":
            return tuple(Message("user", text) for text in (self.prompt, self.negative_prompt) if text is not None)
        own = self.messages or (MessageTemplate(role="user", content=self.prompt or ""),)
        system = () if self.system is None else (Message("system", self.system),)
        return (*system, *(Message(message.role, message.content) for message in own))

    @property
    def known_fields(self) -> tuple[str, ...] | None:
        """The fields of every row; None where they are known only when rows are read."""
        source = self.source
        if source.file is not None or source.items is not None:
            return None
        return (*(source.grid or ()), *(() if source.count is None else (INDEX,)))

    @property
    def structured(self) -> bool:
        """Whether an output is an object."""
        return self.kind == "dataset" or self.output_schema is not None

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
        if self.keep is not None:
            return self.keep
        return () if self.kind == "dataset" else tuple(self.source.grid or ())  # a dataset's rows have the grid's

    def over_rows(self) -> JobSpec:
        """A training on rows as a job over these rows, for planning to read and check them; any other job as it is."""
        data = self.data
        if data is None or data.file is None:
            return self
        source = Source(file=data.file, format=data.format, delimiter=data.delimiter)
        return self.model_copy(update={"source": source})

    def over_parent(self) -> JobSpec | None:
        """A training on a linked table as a job over the rows of its parent's file, like `over_rows`; else None."""
        parent = None if self.data is None else self.data.parent
        if parent is None or parent.file is None:
            return None
        source = Source(file=parent.file, format=parent.format, delimiter=parent.delimiter)
        return self.model_copy(update={"source": source})

    def work(
        self,
        custom_id: str | None,
        *,
        model: str | None = None,
        etag: str | None = None,
        rows: tuple[SourceRange, ...] = NO_RANGES,
        parent_rows: tuple[SourceRange, ...] = NO_RANGES,
        subjects: TableWork | None = None,
        adapters: Mapping[str, str] | None = None,
    ) -> Work:
        """What every shard of the job has in common.

        Args:
            custom_id: The field that holds the rows' ids, as planning found it.
            model: In place of the job's: the version of a trained model that it came to.
            etag: The version of a training's archive.
            rows: Where a training's rows are.
            parent_rows: Where those of its parent's table are.
            subjects: In place of the table's own work: of one whose subjects are another job's rows, as planning found.
            adapters: By the job's names of adapters that were trained, `NAME@VERSION` of each.
        """
        adapters = adapters or {}
        wordless = self.kind in {"image", "audio", "train", "tabular"}
        return Work(
            model=model or self.model,
            engine=self.engine,
            messages=() if wordless or self.kind == "dataset" else self.templates,
            sampling={} if wordless else self.sampling.model_dump(mode="json"),
            seed=self.seed,
            n=self.n,
            schema=self.output_schema,
            grid={name: tuple(values) for name, values in (self.source.grid or {}).items()},
            custom_id=custom_id,
            max_tokens_field=self.max_tokens_field,
            keep=self.kept,
            options=None if self.options is None else self.options.model_dump(mode="json"),
            image=self.image_work(self.prompt, adapters) if self.kind == "image" else None,
            audio=self.audio_work(self.prompt, provenance=self.provenance) if self.kind == "audio" else None,
            train=self.train_work(self.seed, etag, rows, parent_rows) if self.kind == "train" else None,
            table=subjects or (None if self.table is None else self.table.work()),
            adapter=None if self.adapter is None else adapters.get(self.adapter, self.adapter),
            upstream=tuple(self.upstream or ()),
            requests=self.requests,
            dataset=self.dataset_work(self.source.grid or ()) if self.kind == "dataset" else None,
            accept=self.accept_json() if self.kind == "dataset" else self.accept_work(self.sampling),
        )

    @property
    def input_file(self) -> str | None:
        """What the job reads: its source's file, or the folder of a training's images; None where it reads nothing."""
        return self.source.file if self.data is None else self.data.folder or self.data.file

    @property
    def input_param(self) -> str:
        """The field that names it."""
        if self.data is None:
            return "source.file"
        return "data.folder" if self.data.file is None else "data.file"

    @property
    def input_files(self) -> dict[str, str]:
        """All that the job reads, by the field that names it."""
        given = {self.input_param: self.input_file}
        if self.data is not None and self.data.parent is not None:
            given[PARENT_FILE] = self.data.parent.file
        return {param: file for param, file in given.items() if file is not None}

    def with_input(self, param: str, file: str) -> JobSpec:
        """The same job, reading another file for that of `input_files`."""
        if param != PARENT_FILE or self.data is None or self.data.parent is None:
            return self.with_source_file(file)
        parent = self.data.parent.model_copy(update={"file": file})
        return self.model_copy(update={"data": self.data.model_copy(update={"parent": parent})})

    def with_source_file(self, file: str) -> JobSpec:
        """The same job, reading another file: the uploaded copy of a local one, say."""
        if self.data is not None:
            field = "folder" if self.data.file is None else "file"
            return self.model_copy(update={"data": self.data.model_copy(update={field: file})})
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
