"""transformers in a thread of this process.

Two ways of generating share the model:

- Continuous batching (`transformers.generation.continuous_batching`) for what is taken greedily, with no grammar and no
  stop strings: it has none of these, and no seed a request.
- Plain batches for everything else: up to 32 sequences at a time, of about one length and of one adapter, or none. A
  place in a batch that falls free stays free until the batch ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llguidance
import llguidance.hf
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from models.backends.batches import choose_batch
from models.backends.chat import Tokenizer
from models.backends.engine import Engine, Finished, Generation
from models.backends.grammar import grammar
from models.backends.processor import fastest_dtype
from models.backends.rows import Row, RowEnds, RowSampler
from models.backends.text_adapters import TextAdapters
from models.backends.threaded import ThreadedEngine
from models.spec import ItemError, JsonSchema
from models.weights import first_line

CACHE_BYTES = 1 << 28
"""Of continuous batching on a CPU; never less than what one sequence may need."""
PAGE_TOKENS = 32
STEP_TOKENS = 2048
WAIT_SECONDS = 0.05
"""How long a step waits for continuous batching to finish something."""


async def start(folder: Path) -> Engine:
    """Load a model into a new engine.

    Raises:
        Exception: whatever transformers raises on a model that it cannot load.
    """
    return await TransformersEngine.start(folder)


class TransformersEngine(ThreadedEngine[Generation, Finished]):
    """A model, its plain batches and its continuous ones."""

    tokenizer: Tokenizer
    context_length: int

    def __init__(self) -> None:
        super().__init__()
        self._plain: list[Generation] = []
        self._continuous: set[str] = set()
        self._forgotten: set[str] = set()
        self._grammars: Any = None  # an LLTokenizer, made for the first schema: it takes a second

    def _load(self, folder: Path) -> None:
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = fastest_dtype() if device == "cpu" else torch.bfloat16
        self._model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, trust_remote_code=False
        )
        self._model.eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.context_length = _context_length(self._model.config)
        ends = self._model.generation_config.eos_token_id
        self._ends = frozenset([ends] if isinstance(ends, int) else ends or ())
        # `generate` takes from here what it is not told: an end of its own, a repetition penalty that nobody asked for.
        self._model.generation_config = GenerationConfig()
        self._adapters = TextAdapters(self._model)
        settings = GenerationConfig(do_sample=False, eos_token_id=sorted(self._ends) or -1)
        batching = _cpu_batching(self._model.config) if device == "cpu" else ContinuousBatchingConfig()
        self._manager = self._model.init_continuous_batching(settings, batching)
        self._manager.start()

    def _take(self, generations: list[Generation]) -> list[Finished]:
        refused: list[Finished] = []
        for generation in generations:
            error = self._schema_error(generation.request.schema)
            if error is not None:
                refused.append(Finished(generation.id, error=error))
            elif _is_simple(generation):
                self._manager.add_request(
                    generation.token_ids,
                    generation.id,
                    max_new_tokens=generation.request.token_limit,
                    eos_token_id=-1 if generation.request.sampling.ignore_eos else sorted(self._ends),
                )
                self._continuous.add(generation.id)
            else:
                self._plain.append(generation)
        return refused

    def _busy(self) -> bool:
        return bool(self._plain or self._continuous)

    def _step(self) -> list[Finished]:
        if not self._plain:
            return self._collect()
        adapter = self._plain[0].request.adapter
        batch = choose_batch([generation for generation in self._plain if generation.request.adapter == adapter])
        taken = {generation.id for generation in batch}
        self._plain = [generation for generation in self._plain if generation.id not in taken]
        with self._manager.pause(), self._adapters.used(adapter):
            self._generate([generation for generation in batch if generation.id not in self._forgotten])
        return []

    def _generate(self, batch: Sequence[Generation]) -> None:
        if not batch:
            return
        rows = [Row(one, self._matcher(one.request.schema), self.tokenizer, self._ends) for one in batch]
        width = max(len(one.token_ids) for one in batch)
        pad = min(self._ends, default=0)
        token_ids = torch.tensor([[pad] * (width - len(one.token_ids)) + one.token_ids for one in batch])
        seen = torch.tensor([[0] * (width - len(one.token_ids)) + [1] * len(one.token_ids) for one in batch])
        settings = GenerationConfig(
            do_sample=False, max_new_tokens=max(row.limit for row in rows), pad_token_id=pad, use_cache=True
        )
        with torch.inference_mode():
            self._model.generate(
                input_ids=token_ids.to(self._model.device),
                attention_mask=seen.to(self._model.device),
                generation_config=settings,
                logits_processor=[RowSampler(rows)],
                # A sequence is handed over when it ends, not when its batch does.
                stopping_criteria=[
                    RowEnds(rows, self._forgotten, lambda row: self._done([row.finished()]), self._show_life)
                ],
            )
        if any(row.finish_reason is None for row in rows):
            # Its caller would wait for ever.
            raise AssertionError("transformers ended a batch before its rows had ended")

    def _collect(self) -> list[Finished]:
        output = self._manager.get_result(timeout=WAIT_SECONDS)
        if output is None:
            error = self._manager.background_thread_status.fatal_error
            if error is not None:
                raise error
            return []
        if output.request_id not in self._continuous or not output.is_finished():
            return []
        self._continuous.discard(output.request_id)
        if output.error is not None:
            return [Finished(output.request_id, error=ItemError("engine_error", output.error))]
        tokens = output.generated_tokens
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return [Finished(output.request_id, text, len(tokens), "stop" if tokens[-1] in self._ends else "length")]

    def _forget_soon(self, ids: Sequence[str]) -> None:
        self._forgotten.update(ids)

    def _forget(self, ids: tuple[str, ...]) -> None:
        gone = set(ids)
        self._plain = [generation for generation in self._plain if generation.id not in gone]
        for sequence in gone & self._continuous:
            self._manager.cancel_request(sequence)
        self._continuous -= gone
        self._forgotten -= gone

    def _unload(self) -> None:
        self._manager.stop(hard_stop=True)
        del self._model, self._adapters

    def _schema_error(self, schema: JsonSchema | None) -> ItemError | None:
        if schema is None:
            return None
        try:
            error = llguidance.LLMatcher.validate_grammar(grammar(schema))
        except ValueError as raised:
            error = first_line(raised)
        return ItemError("invalid_request", error) if error else None

    def _matcher(self, schema: JsonSchema | None) -> llguidance.LLMatcher | None:
        if schema is None:
            return None
        if self._grammars is None:
            self._grammars = llguidance.hf.from_tokenizer(self.tokenizer, eos_token=sorted(self._ends) or None)
        return llguidance.LLMatcher(self._grammars, grammar(schema))


def _cpu_batching(config: Any) -> ContinuousBatchingConfig:  # noqa: ANN401  # a PretrainedConfig, of any model
    """What the library finds out by itself on an accelerator: how large its cache and its batches may be."""
    text = config.get_text_config()
    heads = text.num_key_value_heads or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token_bytes = 2 * 2 * text.num_hidden_layers * heads * head_size  # keys and values, of two bytes each
    return ContinuousBatchingConfig(
        num_blocks=max(CACHE_BYTES // (PAGE_TOKENS * token_bytes), 1 + text.max_position_embeddings // PAGE_TOKENS),
        page_size=PAGE_TOKENS,
        max_batch_tokens=STEP_TOKENS,
        auto_switch_to_flash=False,
    )


def _is_simple(generation: Generation) -> bool:
    """Whether continuous batching can do all that is asked."""
    sampling = generation.request.sampling
    return (
        sampling.temperature == 0
        and sampling.repetition_penalty == 1
        and sampling.min_tokens == 0
        and not sampling.stop
        and generation.request.schema is None
        and generation.request.adapter is None
    )


def _context_length(config: Any) -> int:  # noqa: ANN401  # a PretrainedConfig, of any model
    length: int = config.get_text_config().max_position_embeddings
    return length
