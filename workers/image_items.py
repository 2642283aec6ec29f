"""The items of one shard of an image job, between their rows and their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from models.images import ImageSettings
from models.spec import Adapter, ItemError, Message, ModelInfo, Usage
from workers.contracts import ImageWork, Row, ShardTask
from workers.items import NO_ADAPTERS, ShardItems
from workers.prompts import PromptTemplate
from workers.provenance import Provenance
from workers.records import EarlierRecord, Record, StoredImage, encode_record, item_seed
from workers.screening import DenyList
from workers.upstream import NO_UPSTREAM, Upstream


class ImageAsk(msgspec.Struct, frozen=True, kw_only=True):
    """An item that is to be made: its request, but for the pixels that it starts from."""

    index: int
    prompt: str
    negative: str
    seed: int
    n: int
    batch: int | None = None
    place: int | None = None
    input: object = None  # what the row's field holds: any JSON
    mask: object = None
    style_image: object = None


class ImageItems(ShardItems):
    """As `ShardItems`; `asks` are the items that are not done yet."""

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
    ) -> None:
        if task.work.image is None:
            raise AssertionError("the shard is not one of an image job")
        self.image: ImageWork = task.work.image
        settings = self.image.parsed_settings()
        loras = {adapters[name].folder if name in adapters else name: weight for name, weight in settings.loras.items()}
        self.settings = settings.model_copy(update={"loras": loras})
        self.asks: list[ImageAsk] = []
        self._prompts: dict[int, str] = {}
        self._deny = DenyList(self.image.deny)
        self._template = PromptTemplate((Message("user", self.image.prompt), Message("user", self.image.negative)))
        super().__init__(task, info, rows, earlier, upstream, adapters)

    @property
    def several(self) -> bool:
        """Whether an item has more than one image."""
        return self._work.n > 1

    def settle(self, index: int, images: Sequence[StoredImage], chosen: ImageSettings) -> None:
        """Take images that are in the store as an item's end; `chosen` is what they were made with."""
        offset = index - self._task.first
        prompt = self._prompts.pop(index)
        record = Record(
            index=index,
            custom_id=self._custom_ids[offset],
            status="ok",
            images=tuple(images),
            prompt=prompt or UNSET,
            model=self._info.model,
            model_revision=self._info.revision,
            adapters=self._adapters,
            seed=images[0].seed,
            reproducible=self._info.reproducible,
            steps=self.image.steps,
            settings=self._shown_settings(chosen),
            input=self._inputs[offset],
            attempts=self._attempt(index),
        )
        self._end(index, encode_record(record), Usage(), ok=True)

    def provenance(self, index: int, k: int, seed: int) -> Provenance | None:
        """What the file of image `k` of an item says of itself; None where the job wants none."""
        if not self.image.provenance:
            return None
        # A replay must give the very bytes of the file that it repeats.
        again = self.image.replay
        return Provenance(
            prompt=self._prompts[index],
            model=self._info.model,
            revision=self._info.revision,
            seed=seed,
            job=self._task.job if again is None else again.job,
            index=index if again is None else again.index,
            image=k if again is None else again.image,
            first_step=self.image.steps[0],
        )

    def _ask(self, index: int, values: Row) -> None:
        image, again = self.image, self.image.replay
        prompt, negative = (message.content for message in self._template.render(values))
        denied = self._deny.find(prompt)
        refused = (
            self._refused(prompt)
            if denied is None
            else ItemError("prompt_denied", f"the prompt holds {denied!r}, which the job's deny-list names")
        )
        if refused is not None:
            self.fail(index, refused)
            return
        self._prompts[index] = prompt
        self.asks.append(
            ImageAsk(
                index=index,
                prompt=prompt,
                negative=negative,
                seed=item_seed(self._work.seed, index, self._attempt(index)) if again is None else again.seed,
                n=self._work.n,
                batch=None if again is None else again.batch,
                place=None if again is None else again.place,
                input=None if image.input is None else values.get(image.input),
                mask=None if image.mask is None else values.get(image.mask),
                style_image=None if image.style_image is None else values.get(image.style_image),
            )
        )

    def _shown_settings(self, chosen: ImageSettings) -> dict[str, Any]:  # JSON
        # Adapters as the job names them: where they lie here says nothing elsewhere, and a replay looks them up.
        told = chosen.model_dump(mode="json", exclude_unset=True, exclude={"loras"})
        shown = {**self.image.settings, **told}
        return {name: value for name, value in shown.items() if value is not None}
