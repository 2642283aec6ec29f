"""Which sequences make a batch: few enough, of about one length, and none waits for ever."""

from __future__ import annotations

import pytest

from models.backends.batches import BATCH_ROWS, BATCH_TOKENS, LOOK_AHEAD, choose_batch
from models.backends.engine import Generation
from models.spec import Message, Sampling, TextRequest


def sequence(name: str, read: int, written: int) -> Generation:
    request = TextRequest(
        index=0, messages=(Message("user", ""),), sampling=Sampling(max_tokens=1), seed=0, max_tokens=written
    )
    return Generation(name, [0] * read, request, 0)


def names(batch: list[Generation]) -> list[str]:
    return [generation.id for generation in batch]


def test_a_batch_has_a_most_of_rows() -> None:
    assert len(choose_batch([sequence(f"{n}", 1, 1) for n in range(2 * BATCH_ROWS)])) == BATCH_ROWS


@pytest.mark.parametrize(("read", "written"), [(7000, 1000), (1000, 7000), (100, 1000)])
def test_a_batch_has_a_most_of_tokens_padding_too(read: int, written: int) -> None:
    batch = choose_batch([sequence(f"{n}", read, written) for n in range(BATCH_ROWS)])
    assert len(batch) == BATCH_TOKENS // (read + written)


def test_one_that_is_longer_than_a_batch_may_be_goes_alone() -> None:
    waiting = [sequence("long", BATCH_TOKENS, 1), sequence("short", 1, 1)]
    assert names(choose_batch(waiting)) == ["long"]


def test_a_short_one_that_reads_is_not_padded_beside_a_long_one_that_writes() -> None:
    waiting = [sequence("writes", 10, 20_000), sequence("reads", 20_000, 10)]
    assert names(choose_batch(waiting)) == ["writes"]


def test_those_nearest_to_the_oldest_in_length_go_with_it() -> None:
    waiting = [sequence("oldest", 10, 500), *(sequence(f"{n}", 10, n) for n in range(1, 100)), sequence("x", 10, 510)]
    batch = names(choose_batch(waiting))
    assert batch[:3] == ["oldest", "x", "99"]
    assert len(batch) == BATCH_ROWS


def test_the_oldest_goes_first_however_many_come_after() -> None:
    waiting = [sequence("long", 10, 8000), *(sequence(f"{n}", 10, 10) for n in range(2 * LOOK_AHEAD))]
    assert "long" in names(choose_batch(waiting))
