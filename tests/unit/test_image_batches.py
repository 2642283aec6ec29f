"""Batches of pictures by shape: who goes together, how many, and what is learnt when they do not fit."""

from __future__ import annotations

from models.backends.image_batches import BatchSizes, Picture, WaitingPictures
from models.images import ImageRequest, ImageSettings
from models.spec import output_seed


def picture(name: str, *, batch: int | None = None, place: int | None = None, k: int = 0) -> Picture:
    request = ImageRequest(index=0, seed=7, settings=ImageSettings(), batch=batch, place=place)
    return Picture(name, request, k)


def names(waiting: WaitingPictures) -> list[str]:
    return [one.id for one in waiting.take().pictures]


def filled(size: int, shapes: str) -> WaitingPictures:
    """A picture a letter, named by its position; the letter is its shape."""
    waiting = WaitingPictures(BatchSizes(lambda _: size))
    for position, shape in enumerate(shapes):
        waiting.add(picture(str(position)), shape)
    return waiting


def test_pictures_of_one_shape_go_together_and_the_oldest_shape_first() -> None:
    waiting = filled(3, "abaabab")
    assert [names(waiting) for _ in range(3)] == [["0", "2", "3"], ["1", "4", "6"], ["5"]]
    assert not waiting


def test_each_picture_has_the_seed_of_its_output() -> None:
    assert [picture("", k=k).seed for k in range(3)] == [output_seed(7, k) for k in range(3)]


def test_what_did_not_fit_goes_first_and_in_its_order() -> None:
    sizes = BatchSizes(lambda _: 4)
    waiting = WaitingPictures(sizes)
    for position, shape in enumerate("abaaaba"):
        waiting.add(picture(str(position)), shape)
    batch = waiting.take()
    assert sizes.halve("a", batch.size)
    waiting.put_back(batch)
    assert [names(waiting) for _ in range(3)] == [["0", "2"], ["3", "4"], ["1", "5"]]


def test_a_size_that_failed_is_remembered_for_its_shape_alone() -> None:
    sizes = BatchSizes(lambda _: 8)
    assert sizes.halve("a", 8)
    assert (sizes.of("a"), sizes.of("b")) == (4, 8)
    sizes.learn("a", 30)
    assert sizes.of("a") == 7
    assert sizes.halve("a", 7)
    assert sizes.halve("a", 3)
    assert sizes.of("a") == 1
    assert not sizes.halve("a", 1)
    assert sizes.of("a") == 1
    sizes.learn("b", 30)
    assert sizes.of("b") == 30


def test_a_partial_batch_that_fails_lowers_the_size_too() -> None:
    sizes = BatchSizes(lambda _: 8)
    assert sizes.halve("a", 3)
    assert sizes.of("a") == 1


def test_a_guess_is_at_least_one() -> None:
    assert BatchSizes(lambda _: 0).of("a") == 1


def test_a_batch_that_is_asked_for_is_padded_and_shared_by_its_like() -> None:
    waiting = filled(2, "a")
    for position in range(3):
        waiting.add(picture(f"r{position}", batch=2), "a")
    assert names(waiting) == ["0"]
    first, last = waiting.take(), waiting.take()
    assert [one.id for one in first.pictures] == ["r0", "r1"]
    assert ([one.id for one in last.padded()], last.size) == (["r2", "r2"], 2)


def test_a_place_in_a_batch_is_for_one_picture() -> None:
    waiting = filled(2, "")
    for position in range(2):
        waiting.add(picture(str(position), batch=4, place=3), "a")
    batches = [waiting.take(), waiting.take()]
    assert [([one.id for one in batch.padded()], batch.place) for batch in batches] == [(["0"] * 4, 3), (["1"] * 4, 3)]


def test_what_nobody_waits_for_is_dropped() -> None:
    waiting = filled(4, "aab")
    waiting.forget(["0", "2", "unknown"])
    assert names(waiting) == ["1"]
    assert not waiting
