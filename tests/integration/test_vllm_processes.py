"""vLLM's engine in processes of its own, when one of them dies while it loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.backends.sequences import import_engine
from models.errors import FailureKind, ModelError


async def test_an_engine_that_dies_while_it_loads_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    vllm_async: Any = import_engine("models.backends.vllm_async")

    def dies(*_: object, **__: object) -> None:
        raise RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s): {}")

    monkeypatch.setattr(vllm_async, "engine_arguments", lambda _, *, adapters: {})
    monkeypatch.setattr(vllm_async.AsyncEngineArgs, "create_engine_config", lambda _: None)
    monkeypatch.setattr(vllm_async.AsyncLLM, "from_vllm_config", dies)
    with pytest.raises(ModelError, match="died while it loaded") as caught:
        await vllm_async.start(Path("a-model"))
    assert (caught.value.kind, caught.value.code) == (FailureKind.ENGINE, "engine_died")
