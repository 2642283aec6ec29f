"""The items of one shard of a speech job, between their rows and their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import UNSET

from models.audio import AudioRequest
from models.spec import Adapter, Message, ModelInfo, Usage
from workers.contracts import AudioWork, Row, ShardTask
from workers.items import NO_ADAPTERS, ShardItems
from workers.prompts import PromptTemplate
from workers.provenance import Provenance
from workers.records import EarlierRecord, Record, StoredAudio, encode_record, item_seed
from workers.upstream import NO_UPSTREAM, Upstream


class AudioItems(ShardItems):
    """As `ShardItems`; `requests` are the items that are not done yet."""

    def __init__(
        self,
        task: ShardTask,
        info: ModelInfo,
        rows: Iterable[Row],
        earlier: Mapping[int, EarlierRecord],
        upstream: Upstream = NO_UPSTREAM,
        adapters: Mapping[str, Adapter] = NO_ADAPTERS,
    ) -> None:
        if task.work.audio is None:
            raise AssertionError("the shard is not one of a speech job")
        self.audio: AudioWork = task.work.audio
        self.requests: list[AudioRequest] = []
        self._settings = self.audio.parsed_settings()
        self._options = task.work.parsed_options()
        self._prompts: dict[int, str] = {}
        self._template = PromptTemplate((Message("user", self.audio.prompt),))
        super().__init__(task, info, rows, earlier, upstream, adapters)

    def settle(self, index: int, sound: StoredAudio) -> None:
        """Take a sound that is in the store as an item's end."""
        offset = index - self._task.first
        record = Record(
            index=index,
            custom_id=self._custom_ids[offset],
            status="ok",
            audio=(sound,),
            prompt=self._prompts.pop(index),
            model=self._info.model,
            model_revision=self._info.revision,
            seed=sound.seed,
            reproducible=self._info.reproducible,
            settings=self.audio.settings or UNSET,
            input=self._inputs[offset],
            attempts=self._attempt(index),
        )
        self._end(index, encode_record(record), Usage(), ok=True)

    def provenance(self, index: int, seed: int) -> Provenance | None:
        """What an item's file says of itself; None where the job wants none."""
        if not self.audio.provenance:
            return None
        return Provenance(
            prompt=self._prompts[index],
            model=self._info.model,
            revision=self._info.revision,
            seed=seed,
            job=self._task.job,
            index=index,
        )

    def _ask(self, index: int, values: Row) -> None:
        [message] = self._template.render(values)
        denied = self._refused(message.content)
        if denied is not None:
            self.fail(index, denied)
            return
        self._prompts[index] = message.content
        self.requests.append(
            AudioRequest(
                index=index,
                seed=item_seed(self._work.seed, index, self._attempt(index)),
                text=message.content,
                settings=self._settings,
                options=self._options,
            )
        )
