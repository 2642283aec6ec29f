"""Requests and results in vLLM's types. Imported only where vLLM is."""

from __future__ import annotations

from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from models.backends.chat import Tokenizer
from models.backends.engine import Finished, Generation
from models.backends.grammar import closed
from models.backends.vllm_engine import NUCLEUS
from models.backends.vllm_environment import is_cpu_build
from models.spec import FinishReason, ItemError

FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


def sampling_params(generation: Generation) -> SamplingParams:
    """A sequence's settings; the seed is that of the output."""
    request = generation.request
    sampling = request.sampling
    ours = is_cpu_build() and sampling.temperature > 0 and sampling.top_p < 1
    return SamplingParams(
        temperature=sampling.temperature,
        top_p=1.0 if ours else sampling.top_p,
        top_k=0 if ours else sampling.top_k,
        extra_args={NUCLEUS: (sampling.top_p, sampling.top_k)} if ours else None,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        max_tokens=request.token_limit,
        min_tokens=min(sampling.min_tokens, request.token_limit),
        ignore_eos=sampling.ignore_eos,
        stop=list(sampling.stop),
        seed=generation.seed,
        # Text is needed token by token only to look for stop strings; else it is decoded once, at the end.
        detokenize=bool(sampling.stop),
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=closed(request.schema)) if request.schema is not None else None,
        skip_clone=True,  # made for this request alone
    )


class LoraRequests:
    """Adapters as vLLM knows them: a number each, the same for the same weights."""

    def __init__(self) -> None:
        self._known: dict[str, LoRARequest] = {}

    def of(self, generation: Generation) -> LoRARequest | None:
        """A sequence's adapter."""
        adapter = generation.request.adapter
        if adapter is None:
            return None
        known = self._known.get(adapter.revision)
        if known is None:
            known = LoRARequest(adapter.revision, len(self._known) + 1, adapter.folder)
            self._known[adapter.revision] = known
        return known


def finished(output: RequestOutput, tokenizer: Tokenizer) -> Finished:
    """A request's final output."""
    (completion,) = output.outputs
    reason = FINISH_REASONS.get(completion.finish_reason or "")
    if reason is None:
        message = f"vLLM ended the request: {completion.finish_reason}"
        return Finished(output.request_id, error=ItemError("engine_error", message))
    text = completion.text or tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
    return Finished(output.request_id, text, len(completion.token_ids), reason)
