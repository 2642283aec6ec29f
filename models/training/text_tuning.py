"""An adapter of a chat model: it learns to answer as the rows do, and its loss is that of the answers' tokens alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import peft
import torch
import transformers
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from models import weights
from models.backends.chat import Tokenizer, load_error
from models.errors import FailureKind, ModelError
from models.training.settings import LoraOptions, TrainingSettings
from models.training.tuning import Tuning, check_targets, device, shown_base
from models.training_run import Base, Example, TextData

WEIGHTS: Final = "adapter_model.safetensors"
CONFIG: Final = "adapter_config.json"
NO_TARGET: Final = -100
"""The label of a token that no loss is taken of: torch's own."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A row as the model reads it."""

    prompt: list[int]
    completion: list[int]


class TextTuning(Tuning):
    """A causal language model with an adapter, and the rows that it learns from."""

    def __init__(self, base: Base, data: TextData, settings: TrainingSettings) -> None:
        """Raises ModelError, kind MODEL: the base cannot be loaded, or a row cannot be learned from."""
        options = LoraOptions.model_validate(settings.options)
        folder = weights.locate(base.model, base.cache_dir)
        weights.check_whole(folder)
        self.base_revision = weights.revision(folder)
        tokenizer, model = _load(folder, base.model, bfloat16=settings.bfloat16)
        self._rows = token_rows(data, tokenizer, _ends(model, tokenizer), _context(model))
        check_targets(model, options.targets, base.model)
        self._base = shown_base(folder, base.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self._tuned = peft.get_peft_model(model, lora_config(options, "all-linear", "CAUSAL_LM"))
        self._tuned.eval()
        super().__init__(self._tuned, len(self._rows), "rows", settings)

    def losses(self, places: Sequence[int], generator: torch.Generator) -> tuple[Tensor, int]:  # noqa: ARG002
        """Cross-entropy of the answers' tokens; they stand at the right, so that logits are made of them alone."""
        rows = [self._rows[place] for place in places]
        lengths = [len(row.prompt) + len(row.completion) for row in rows]
        kept = max(len(row.completion) for row in rows) + 1
        token_ids = torch.zeros(len(rows), max(lengths), dtype=torch.long)
        seen = torch.zeros_like(token_ids)
        targets = torch.full((len(rows), kept - 1), NO_TARGET)
        for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            token_ids[place, -length:] = torch.tensor(row.prompt + row.completion)
            seen[place, -length:] = 1
            targets[place, -len(row.completion) :] = torch.tensor(row.completion)
        where = device()
        logits: Tensor = self.network(
            input_ids=token_ids.to(where),
            attention_mask=seen.to(where),
            position_ids=(seen.cumsum(1) - 1).clamp(min=0).to(where),
            logits_to_keep=kept,
            use_cache=False,
        ).logits[:, -kept:-1]
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().to(where))
        return loss, sum(len(row.completion) for row in rows)

    def files(self) -> dict[str, bytes]:
        """As peft and vLLM read it."""
        state = peft.get_peft_model_state_dict(self._tuned)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(state.items())}
        described = config_file(self._tuned.peft_config["default"], self._base)
        return {WEIGHTS: save(tensors, metadata={"format": "pt"}), CONFIG: described.content}


def token_rows(data: TextData, tokenizer: Tokenizer, ends: frozenset[int], context_length: int) -> list[TokenRow]:
    """Rows as tokens: the prompt as an engine reads it, then the answer up to the token that ends it.

    Raises:
        ModelError: kind MODEL, code `training_data_unreadable`; it names the row.
    """
    rows = []
    for number, example in enumerate(data.examples, 1):
        try:
            row = _token_row(example, tokenizer, ends)
        except (ValueError, jinja2.TemplateError) as error:
            raise _unreadable(f"{data.name}, row {number}: {error}") from error
        length = len(row.prompt) + len(row.completion)
        if length > context_length:
            raise _unreadable(
                f"{data.name}, row {number}: prompt and completion have {length} tokens, and the model's context holds "
                f"{context_length}; shorten it or leave it out"
            )
        rows.append(row)
    return rows


def _token_row(example: Example, tokenizer: Tokenizer, ends: frozenset[int]) -> TokenRow:
    if not example.completion.strip():
        raise ValueError("the completion is empty; leave out rows that have none")
    messages = [{"role": message.role, "content": message.content} for message in example.messages]
    answered = [*messages, {"role": "assistant", "content": example.completion}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(answered, add_generation_prompt=False, tokenize=False)
    # A template that writes the answer otherwise than after the prompt (one that strips thoughts, say) cannot tell
    # where it begins.
    rest = whole.removeprefix(prompt) if whole.startswith(prompt) else example.completion
    asked, told = tokenizer([prompt, rest], add_special_tokens=False, verbose=False)["input_ids"]
    # What a template writes behind the end belongs to the next message.
    last = max((place for place, token in enumerate(told) if token in ends), default=None)
    return TokenRow(asked, told[: last + 1] if last is not None else [*told, *sorted(ends)[:1]])


def lora_config(options: LoraOptions, targets: str | list[str], task: str | None) -> peft.LoraConfig:
    """The adapter's shape as peft takes it; `targets` where the options name none."""
    return peft.LoraConfig(
        r=options.rank,
        lora_alpha=2 * options.rank if options.alpha is None else options.alpha,  # type: ignore[arg-type]  # any number
        lora_dropout=options.dropout,
        target_modules=list(options.targets) or targets,
        task_type=task,
    )


@dataclass(frozen=True)
class ConfigFile:
    """An adapter's settings, as peft has them, with nothing in it that differs from one process to the next."""

    settings: dict[str, Any]  # of any JSON
    content: bytes
    """adapter_config.json."""


def config_file(config: peft.LoraConfig, base: str) -> ConfigFile:
    """The settings of an adapter of a base."""
    described: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]  # of any JSON
    described |= {"base_model_name_or_path": base, "inference_mode": True}
    # What peft keeps as a set has no order.
    plain = {key: sorted(value) if isinstance(value, set | list) else value for key, value in described.items()}
    return ConfigFile(plain, (json.dumps(plain, indent=2, sort_keys=True) + "\n").encode())


def _load(folder: Path, name: str, *, bfloat16: bool) -> tuple[Tokenizer, Any]:  # the model is of any class
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.bfloat16 if bfloat16 else torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
        )
    except Exception as error:
        # Whatever the library raises on a model that it cannot read.
        raise load_error(name, error) from error
    if tokenizer.chat_template is None:
        raise ModelError(
            FailureKind.MODEL,
            "no_chat_template",
            f"the model {name!r} has no chat template: Nightmill tunes chat (instruct) models only",
        )
    return tokenizer, model.to(device())


def _ends(model: Any, tokenizer: Any) -> frozenset[int]:  # noqa: ANN401  # transformers' types are not followed
    ends = model.generation_config.eos_token_id
    if ends is None:
        ends = tokenizer.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def _context(model: Any) -> int:  # noqa: ANN401  # transformers' types are not followed
    length: int = model.config.get_text_config().max_position_embeddings
    return length


def _unreadable(message: str) -> ModelError:
    return ModelError(FailureKind.MODEL, "training_data_unreadable", message)
