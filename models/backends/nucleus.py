"""Top-p sampling without sorting the vocabulary.

A sort of each row's 50,000 logits costs more than the forward pass of a small model on a CPU. The nucleus of nearly
every row lies within its few hundred likeliest tokens, which a partial selection finds in a tenth of the time.

Source: Holtzman et al., The Curious Case of Neural Text Degeneration, https://arxiv.org/abs/1904.09751.
"""

from __future__ import annotations

import torch

CANDIDATES = 256
"""Tokens a row that are looked at before the whole row is sorted."""


def keep_nucleus(logits: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor) -> torch.Tensor:
    """Set to minus infinity, in place, what is outside each row's nucleus; of equal logits at its edge all stay.

    Args:
        logits: float32, (rows, vocabulary).
        top_p: float32, (rows,): the nucleus is the smallest set of the likeliest tokens that holds this much of the
            probability of the `top_k` likeliest.
        top_k: int64, (rows,); the size of the vocabulary where all tokens take part.
    """
    size = logits.shape[-1]
    values = logits.topk(min(CANDIDATES, size), dim=-1).values
    edges, complete = _edges(logits, values, top_p, top_k)
    if not bool(complete.all()):
        rows = (~complete).nonzero().squeeze(-1)
        whole = logits[rows].sort(dim=-1, descending=True).values
        edges[rows], _ = _edges(logits[rows], whole, top_p[rows], top_k[rows])
    return logits.masked_fill_(logits < edges.unsqueeze(-1), float("-inf"))


def _edges(
    logits: torch.Tensor, values: torch.Tensor, top_p: torch.Tensor, top_k: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The least logit of each row's nucleus, and whether `values`, each row's largest in order, hold all of it."""
    count, size = values.shape[-1], logits.shape[-1]
    within_k = torch.arange(count) < top_k.unsqueeze(-1)
    limited = top_k <= count
    mass = values.masked_fill(~within_k, float("-inf")).logsumexp(-1)
    if not bool(limited.all()):
        mass = torch.where(limited, mass, logits.logsumexp(-1))
    probabilities = (values - mass.unsqueeze(-1)).exp() * within_k
    reached = probabilities.cumsum(-1)
    kept = (reached - probabilities < top_p.unsqueeze(-1)) & within_k
    last = (kept.sum(-1) - 1).clamp(min=0)
    edges = values.gather(-1, last.unsqueeze(-1)).squeeze(-1)
    return edges, limited | ((top_k >= size) & (reached[:, -1] >= top_p)) | (count == size)
