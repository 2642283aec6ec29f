"""An image engine in a thread: batches by shape, halved where the memory does not hold them, ended where nobody waits.

What a kind of model must bring is what `ImageEngine` leaves open: how it is loaded, what it refuses, which requests are
alike, and how a batch is painted.
"""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Hashable, Sequence

import torch

from models.backends.image_batches import Batch, BatchSizes, Painted, Picture, WaitingPictures
from models.backends.threaded import ThreadedEngine
from models.images import Image, ImageRequest, ImageSettings, Pixels
from models.spec import ItemError, Reproducible
from models.weights import first_line


class AbandonedError(Exception):
    """Nobody waits any more for any picture of the batch that is being painted."""


class ImageEngine(ThreadedEngine[Picture, Painted]):
    """A model and the pictures that wait for it."""

    reproducible: Reproducible = "seeded"
    prompt_tokens: int = 0
    """How long a prompt may be; 0 where it is not read as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._sizes = BatchSizes(self.first_size)
        self._pictures = WaitingPictures(self._sizes)
        self._forgotten: set[str] = set()
        self._present: frozenset[str] = frozenset()

    # What a kind of model brings, with `_load(folder)` and `_unload()`. All of it runs in the engine's thread.

    @abstractmethod
    def shape(self, request: ImageRequest) -> Hashable | ItemError:
        """What the requests of one batch must have in common, or why this one cannot be answered."""

    @abstractmethod
    def first_size(self, shape: Hashable) -> int:
        """How many pictures of a shape to paint at once, before any has been."""

    @abstractmethod
    def paint(self, shape: Hashable, pictures: Sequence[Picture]) -> Sequence[Pixels | ItemError]:
        """A batch's pixels, in its order. Calls `between_steps` as often as it can.

        Each picture draws its noise from a generator of its own, seeded with `picture.seed`: a batch may hold the same
        picture more than once.

        Raises:
            AbandonedError: from `between_steps`.
            Exception: the batch cannot be painted. Out of memory, a smaller one is tried; else each picture alone.
        """

    def settings(self, request: ImageRequest, shape: Hashable) -> ImageSettings:  # noqa: ARG002  # some read none
        """What a picture of this shape is made with: those settings alone that are read, none left open."""
        return ImageSettings()

    def painted(self, shape: Hashable, size: int) -> None:  # most engines keep to their first guess
        """Called after a batch of `size` pictures: the time to `self._sizes.learn` from what it took."""

    def between_steps(self) -> None:
        """Show life, and end the batch if nobody waits for it.

        Raises:
            AbandonedError: nobody does.
        """
        self._show_life()
        if self._present and self._present <= self._forgotten:
            raise AbandonedError

    # What ThreadedEngine asks for.

    def _take(self, tasks: list[Picture]) -> list[Painted]:
        refused: list[Painted] = []
        request: ImageRequest | None = None
        shape: Hashable | ItemError = None
        for picture in tasks:
            if picture.request is not request:  # the pictures of a request come one after the other
                request = picture.request
                shape = _padding_error(request) or self.shape(request)
            if isinstance(shape, ItemError):
                refused.append(Painted(picture.id, error=shape))
            else:
                self._pictures.add(picture, shape)
        return refused

    def _busy(self) -> bool:
        return bool(self._pictures)

    def _step(self) -> list[Painted]:
        batch = self._pictures.take()
        self._present = frozenset(picture.id for picture in batch.pictures)
        try:
            return self._paint_batch(batch)
        except AbandonedError:
            return []
        finally:
            self._present = frozenset()

    def _paint_batch(self, batch: Batch) -> list[Painted]:
        failure: ItemError
        try:
            done = self._paint(batch)
        except (AbandonedError, torch.AcceleratorError):
            raise  # after an accelerator's error nothing works on it any more: the engine is dead
        except Exception as error:  # noqa: BLE001  # what a pipeline raises on input that it cannot take
            if not is_out_of_memory(error):
                failure = ItemError(
                    "image_failed", f"the model failed on it: {type(error).__name__}: {first_line(error)}"
                )
            else:
                failure = ItemError(
                    "out_of_memory", f"a batch of {batch.size} such images does not fit the memory: {first_line(error)}"
                )
        else:
            self.painted(batch.shape, batch.size)
            return done
        # Outside of the handler: until it ends, the error's traceback holds the batch's tensors.
        _free_memory()
        if batch.pictures[0].request.batch is not None:
            pass  # another batch than the one that was asked for would not be an answer
        elif failure.code == "out_of_memory":
            if self._sizes.halve(batch.shape, batch.size):
                self._pictures.put_back(batch)
                return []
        elif batch.size > 1:
            return [one for picture in batch.pictures for one in self._paint_batch(Batch(batch.shape, [picture], 1))]
        return [Painted(picture.id, error=failure) for picture in batch.pictures]

    def _paint(self, batch: Batch) -> list[Painted]:
        padded = batch.padded()
        with torch.inference_mode():
            pixels = self.paint(batch.shape, padded)
        done: list[Painted] = []
        for place, picture in enumerate(batch.pictures, start=batch.place):
            painted = pixels[place]
            if isinstance(painted, ItemError):
                done.append(Painted(picture.id, error=painted))
            else:
                settings = self.settings(picture.request, batch.shape)
                image = Image(pixels=painted, seed=picture.seed, batch=batch.size, place=place, settings=settings)
                done.append(Painted(picture.id, image))
        return done

    def _forget_soon(self, ids: Sequence[str]) -> None:
        self._forgotten.update(ids)

    def _forget(self, ids: tuple[str, ...]) -> None:
        self._pictures.forget(ids)
        self._forgotten.difference_update(ids)


def _padding_error(request: ImageRequest) -> ItemError | None:
    size = 1 if request.batch is None else request.batch
    place = request.place or 0
    if size >= 1 and 0 <= place < size and (place == 0 or request.n == 1):
        return None
    return ItemError("invalid_request", f"there is no place {place} for {request.n} images in a batch of {size}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, a GPU's or the machine's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
