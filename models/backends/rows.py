"""Sampling of many unlike requests in one batch: each row has its own settings, seed, grammar and end.

transformers' own processors have one setting for a whole batch and one generator for all of it. These classes give
each row what its request asks for, in vLLM's order: grammar, penalties, temperature, min_p, top_k and top_p. A row's
noise comes from a generator of its own, so that its sampler does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import llguidance
import torch
from transformers import LogitsProcessor, StoppingCriteria

from models.backends.chat import Tokenizer
from models.backends.engine import Finished, Generation
from models.backends.nucleus import keep_nucleus
from models.spec import FinishReason

MINUS_INFINITY = float("-inf")


class Row:
    """One sequence of a batch, and how far it is."""

    def __init__(
        self,
        generation: Generation,
        matcher: llguidance.LLMatcher | None,
        tokenizer: Tokenizer,
        ends: frozenset[int],
    ) -> None:
        """`ends` are the tokens with which the model ends its answer."""
        self.generation = generation
        self.sampling = generation.request.sampling
        self.limit = generation.request.token_limit
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._matcher = matcher
        self._tokenizer = tokenizer
        self._ends = ends
        self._text: str | None = None
        self._generator = torch.Generator()
        if generation.seed is not None:
            self._generator.manual_seed(generation.seed)

    def take(self, token: int) -> bool:
        """Note the token that was chosen; returns whether the sequence ends with it."""
        self.token_ids.append(token)
        if self._ended_by(token):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.limit:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def _ended_by(self, token: int) -> bool:
        if token in self._ends and not self.sampling.ignore_eos:
            return True
        if self._matcher is not None and (not self._matcher.consume_token(token) or self._matcher.is_stopped()):
            return True
        # As in vLLM, a stop string counts only past the least number of tokens.
        return bool(self.sampling.stop) and len(self.token_ids) > self.sampling.min_tokens and self._stopped()

    def _stopped(self) -> bool:
        text = self._tokenizer.decode(self.token_ids, skip_special_tokens=True)
        found = [start for stop in self.sampling.stop if (start := text.find(stop)) >= 0]
        if found:
            self._text = text[: min(found)]
        return bool(found)

    def shape(self, logits: torch.Tensor) -> None:
        """Change the next token's logits, (vocabulary,), in place, by all that does not need the other rows."""
        if self._matcher is not None:
            mask = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
            bits = (mask.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
            allowed = bits.flatten()[: len(logits)].bool()
            logits[: len(allowed)].masked_fill_(~allowed.to(logits.device), MINUS_INFINITY)
            logits[len(allowed) :] = MINUS_INFINITY
        if self.sampling.repetition_penalty != 1:
            seen = torch.tensor(sorted({*self.generation.token_ids, *self.token_ids}), device=logits.device)
            values = logits[seen]
            penalty = self.sampling.repetition_penalty
            logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
        if len(self.token_ids) < min(self.sampling.min_tokens, self.limit):
            logits[list(self._ends)] = MINUS_INFINITY
        if self.sampling.temperature > 0:
            logits /= self.sampling.temperature
            if self.sampling.min_p > 0:
                logits.masked_fill_(
                    logits < logits.max() + torch.tensor(self.sampling.min_p).log().item(), MINUS_INFINITY
                )

    def noise(self, size: int) -> torch.Tensor:
        """Gumbel noise: the likeliest token after adding it is a sample of the distribution."""
        return -torch.empty(size).exponential_(generator=self._generator).log_()

    def finished(self) -> Finished:
        """The sequence as a result."""
        text = self._text
        if text is None:
            text = self._tokenizer.decode(self.token_ids, skip_special_tokens=True)
        return Finished(self.generation.id, text, len(self.token_ids), self.finish_reason or "length")


class RowSampler(LogitsProcessor):  # type: ignore[misc]  # transformers' types are not followed
    """Each row's logits as its request asks, so that the largest is the token to take."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002  # transformers' signature
        """Scores of the next tokens: (rows, vocabulary)."""
        scores = scores.float()
        sampled: list[int] = []
        for index, row in enumerate(self._rows):
            if row.finish_reason is None:
                row.shape(scores[index])
                if row.sampling.temperature > 0:
                    sampled.append(index)
        limited = [i for i in sampled if self._rows[i].sampling.top_p < 1 or self._rows[i].sampling.top_k > 0]
        if limited:
            settings = [self._rows[index].sampling for index in limited]
            top_p = torch.tensor([setting.top_p for setting in settings], device=scores.device)
            top_k = torch.tensor([setting.top_k or scores.shape[-1] for setting in settings], device=scores.device)
            scores[limited] = keep_nucleus(scores[limited], top_p, top_k)
        for index in sampled:
            scores[index] += self._rows[index].noise(scores.shape[-1]).to(scores.device)
        return scores


class RowEnds(StoppingCriteria):  # type: ignore[misc]  # transformers' types are not followed
    """Each row's end: its model's own, its grammar's, a stop string, its limit, or that nobody waits for it."""

    def __init__(
        self, rows: Sequence[Row], forgotten: set[str], ended: Callable[[Row], None], stepped: Callable[[], None]
    ) -> None:
        """`forgotten` are ids of aborted sequences, to which another thread adds; `ended` is told of each row."""
        self._rows = rows
        self._forgotten = forgotten
        self._ended = ended
        self._stepped = stepped

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:  # noqa: ARG002  # transformers' signature
        """Which rows are done: (rows,)."""
        self._stepped()
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if row.finish_reason is not None:
                continue
            ended = row.take(token)
            if row.generation.id in self._forgotten:
                row.finish_reason = "stop"
            elif ended:
                self._ended(row)
        return torch.tensor([row.finish_reason is not None for row in self._rows], device=input_ids.device)
