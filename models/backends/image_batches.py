"""Which waiting pictures make the next batch, and how many: for every image engine whose batches end as a whole.

A picture's shape is whatever its engine must run alike in one batch (size, steps, guidance, adapters), as one hashable
value. Shapes take turns by their oldest picture. Nothing here imports an engine.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass

from models.images import Image, ImageRequest
from models.spec import ItemError, output_seed


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture for an engine to make: image `k` of a request."""

    id: str
    request: ImageRequest
    k: int

    @property
    def seed(self) -> int:
        """Seed of this picture's own generator."""
        return output_seed(self.request.seed, self.k)


@dataclass(frozen=True, slots=True)
class Painted:
    """One picture that an engine has made, or why it has not."""

    id: str
    image: Image | None = None
    error: ItemError | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Pictures of one shape. `size` is larger than their number where their requests ask for padding."""

    shape: Hashable
    pictures: list[Picture]
    size: int

    def padded(self) -> list[Picture]:
        """As many pictures as the batch has places: its own first, then again from the first on."""
        return list(itertools.islice(itertools.cycle(self.pictures), self.size))


class BatchSizes:
    """How many pictures of a shape run at once: a first guess, then what was learnt from runs that fit or did not."""

    def __init__(self, first: Callable[[Hashable], int]) -> None:
        """`first` guesses from the memory that is free."""
        self._first = first
        self._sizes: dict[Hashable, int] = {}
        self._too_many: dict[Hashable, int] = {}

    def of(self, shape: Hashable) -> int:
        """Pictures that fit, at least 1."""
        if shape not in self._sizes:
            self._sizes[shape] = max(1, self._first(shape))
        return self._sizes[shape]

    def learn(self, shape: Hashable, size: int) -> None:
        """Note how many would fit by what a run has measured. What once did not fit is not tried again."""
        self._sizes[shape] = max(1, min(size, self._too_many.get(shape, size + 1) - 1))

    def halve(self, shape: Hashable, failed: int) -> bool:
        """Note that `failed` pictures did not fit; false where that was a single one."""
        self._too_many[shape] = min(failed, self._too_many.get(shape, failed))
        self._sizes[shape] = max(1, min(self.of(shape), failed // 2))
        return failed > 1


class WaitingPictures:
    """Pictures that wait for their batch, by shape. A request that names a batch size waits among its like alone."""

    def __init__(self, sizes: BatchSizes) -> None:
        self._sizes = sizes
        self._arrivals = itertools.count()
        self._queues: dict[tuple[Hashable, int | None], OrderedDict[str, tuple[int, Picture]]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, picture: Picture, shape: Hashable) -> None:
        """Let a picture wait behind those of its shape."""
        queue = self._queues.setdefault((shape, picture.request.batch), OrderedDict())
        queue[picture.id] = next(self._arrivals), picture

    def take(self) -> Batch:
        """The next batch: of the shape whose oldest picture has waited longest. There must be one."""
        key = min(self._queues, key=lambda key: next(iter(self._queues[key].values()))[0])
        shape, asked = key
        queue = self._queues[key]
        size = asked or self._sizes.of(shape)
        pictures = [queue.popitem(last=False)[1][1] for _ in range(min(size, len(queue)))]
        if not queue:
            del self._queues[key]
        return Batch(shape, pictures, asked or len(pictures))

    def put_back(self, batch: Batch) -> None:
        """Let the pictures of a batch that did not fit wait again, before all others."""
        key = batch.shape, batch.pictures[0].request.batch
        queue = self._queues.setdefault(key, OrderedDict())
        for place, picture in reversed(list(enumerate(batch.pictures))):
            queue[picture.id] = place - len(batch.pictures), picture
            queue.move_to_end(picture.id, last=False)

    def forget(self, ids: Collection[str]) -> None:
        """Drop pictures that nobody waits for any more."""
        for key, queue in list(self._queues.items()):
            for picture in ids:
                queue.pop(picture, None)
            if not queue:
                del self._queues[key]
