"""The back-end of tables: one request at a time, whatever becomes of who asked."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from models.backends.tabular import ThreadTabularBackend, folder_digest
from models.errors import ModelError
from models.tabular.columns import Column
from models.tabular.engine import TableRequest
from models.tabular.families import check_table_engine, open_table_backend, open_trainer


class GatedModel:
    """Samples when it is let to, and notices where two requests meet."""

    columns: tuple[Column, ...] = ()

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.gate = threading.Event()
        self.active = 0
        self.done: list[int] = []

    def sample(self, request: TableRequest) -> pa.Table:
        self.active += 1
        assert self.active == 1, "two requests at once"
        self.begun.set()
        self.gate.wait(30)
        self.active -= 1
        self.done.append(request.seed)
        return pa.table({"seed": [request.seed]})


def opened(model: GatedModel, tmp_path: Path) -> ThreadTabularBackend:
    backend = ThreadTabularBackend(tmp_path)
    backend._model = model  # in place of one that takes half a minute to load
    return backend


async def test_requests_wait_for_each_other_and_one_that_is_given_up_is_still_finished(tmp_path: Path) -> None:
    model = GatedModel()
    backend = opened(model, tmp_path)
    first = asyncio.create_task(backend.sample(TableRequest(rows=1, seed=1)))
    second = asyncio.create_task(backend.sample(TableRequest(rows=1, seed=2)))
    await asyncio.to_thread(model.begun.wait, 30)
    first.cancel()
    await asyncio.sleep(0)
    assert backend.quiet_seconds() >= 0
    model.gate.set()
    assert (await second)["seed"].to_pylist() == [2]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert model.done == [1, 2]
    assert backend.quiet_seconds() == 0
    await backend.close()
    await backend.close()


def test_the_digest_is_that_of_the_weights_not_of_the_card(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    digest = folder_digest(tmp_path)
    (tmp_path / "README.md").write_bytes(b"y")
    assert folder_digest(tmp_path) == digest
    (tmp_path / "model.safetensors").write_bytes(b"y")
    assert folder_digest(tmp_path) != digest


def test_a_folder_without_a_model_and_a_family_of_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        open_table_backend(tmp_path)
    assert caught.value.code == "model_folder_incomplete"
    for refuses in (check_table_engine, open_trainer):
        with pytest.raises(ModelError, match="gan makes no tables; these families do: tabular-argn") as caught:
            refuses("gan")
        assert caught.value.code == "wrong_kind"
