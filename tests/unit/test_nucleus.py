"""Top-p without a sort keeps what top-p with one keeps."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from models.backends import nucleus  # noqa: E402  # after torch is known to be there


def _sorted_nucleus(row: list[float], top_p: float, top_k: int) -> set[int]:
    """The definition: tokens from the likeliest down, until their share of the top_k's probability reaches top_p."""
    order = sorted(range(len(row)), key=lambda token: -row[token])[:top_k]
    weights = torch.tensor([row[token] for token in order], dtype=torch.float64).softmax(-1).tolist()
    kept: set[int] = set()
    reached = 0.0
    for token, weight in zip(order, weights, strict=True):
        if reached >= top_p:
            break
        kept.add(token)
        reached += weight
    return kept


@pytest.mark.parametrize("spread", [0.05, 1.0, 4.0])
@pytest.mark.parametrize("top_p", [0.02, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("top_k", [1, 5, 200, 300, 1000])
def test_the_nucleus_is_that_of_the_definition(spread: float, top_p: float, top_k: int) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(3, 1000, generator=generator) * spread
    expected = [_sorted_nucleus(row, top_p, top_k) for row in logits.tolist()]
    found = nucleus.keep_nucleus(logits.clone(), torch.full((3,), top_p), torch.full((3,), top_k))
    for before, after, kept in zip(logits, found, expected, strict=True):
        left = set(torch.isfinite(after).nonzero().flatten().tolist())
        assert len(left ^ kept) <= 1  # sums of float32 may differ in the last token
        assert torch.equal(after[sorted(left)], before[sorted(left)])


def test_each_row_has_its_own_settings() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    found = nucleus.keep_nucleus(logits, torch.tensor([0.01, 0.99, 0.7, 1.0]), torch.tensor([4, 2, 4, 3]))
    assert torch.isfinite(found).sum(-1).tolist() == [1, 2, 2, 3]


def test_equal_logits_at_the_edge_all_stay() -> None:
    found = nucleus.keep_nucleus(torch.tensor([[1.0, 1.0, 1.0, -5.0]]), torch.tensor([0.3]), torch.tensor([4]))
    assert torch.isfinite(found).tolist() == [[True, True, True, False]]
