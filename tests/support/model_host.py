"""A process that holds one model, for tests: `python -m tests.support.model_host MODULE:CLASS MODEL CACHE_DIR`.

It loads the model, says its ModelInfo as a line of JSON, or why it cannot, and then answers each line that it reads: a
list of calls that are made side by side, each a list of requests. An engine in a process of its own has the environment
that it needs, and leaves nothing in the tests' process.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any, Self

import msgspec

from models.adapters import find_adapter
from models.backend import Backend
from models.backends.vllm_environment import engine_environment
from models.errors import FailureKind, ModelError
from models.spec import Message, ModelInfo, Sampling, TextRequest, TextResult

ROOT = Path(__file__).parents[2]


class _Loaded(msgspec.Struct):
    """How loading ended."""

    info: ModelInfo | None = None
    kind: FailureKind = FailureKind.MODEL
    code: str = ""
    message: str = ""


class ModelHost:
    """The tests' end of such a process."""

    def __init__(
        self, backend: str, cache_dir: Path, *, model: str = "smollm2-135m", environment: dict[str, str] | None = None
    ) -> None:
        """Start it and wait for the model.

        Raises:
            ModelError: what the back-end raised while it loaded.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.model_host", backend, model, str(cache_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, **engine_environment(), **(environment or {})},
            text=True,
        )
        said = msgspec.json.decode(self._read(), type=_Loaded)
        if said.info is None:
            self.__exit__()
            raise ModelError(said.kind, said.code, said.message)
        self.info = said.info

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, *requests: dict[str, Any]) -> list[TextResult]:
        """Results of one call, by index."""
        return self.ask_at_once(requests)[0]

    def ask_at_once(self, *calls: Any, leave_after: int = 0) -> list[list[TextResult]]:
        """Results of several calls made side by side; each is left after so many results, if that is not 0."""
        self._write({"calls": calls, "leave_after": leave_after})
        return msgspec.json.decode(self._read(), type=list[list[TextResult]])

    def _write(self, value: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def _read(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(("{", "[")):  # an engine may print what it likes
                return line
        raise AssertionError(f"the model's process ended: {self._process.wait()}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _request(index: int, fields: dict[str, Any]) -> TextRequest:
    messages = (Message("user", fields.pop("text")),)
    own = {name: fields.pop(name) for name in ("n", "schema", "limit", "adapter") if name in fields}
    if "adapter" in own:
        own["adapter"] = find_adapter(Path(own["adapter"]), "one of a test")
    if "limit" in own:
        own["max_tokens"] = own.pop("limit")
    seed = fields.pop("seed", 0)
    sampling = Sampling.model_validate({"temperature": 0, "max_tokens": 16, **fields})
    return TextRequest(index=index, messages=messages, sampling=sampling, seed=seed, **own)


async def _call(backend: Backend, requests: list[dict[str, Any]], leave_after: int) -> list[TextResult]:
    results: list[TextResult] = []
    # The protocol promises an iterator; every back-end's is a generator, which can be closed.
    generating: Any = backend.generate([_request(index, fields) for index, fields in enumerate(requests)])
    async with aclosing(generating):
        async for group in generating:
            results.extend(group)
            if leave_after and len(results) >= leave_after:
                break
    return sorted(results, key=lambda result: result.index)


async def _serve(backend: Backend) -> None:
    try:
        _say(_Loaded(await backend.load()))
    except ModelError as error:
        _say(_Loaded(None, error.kind, error.code, error.message))
        return
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        calls = (_call(backend, requests, asked["leave_after"]) for requests in asked["calls"])
        _say(await asyncio.gather(*calls))
    await backend.close()


def _say(value: object) -> None:
    print(msgspec.json.encode(value).decode(), flush=True)


def main() -> None:
    """Load the model and answer until standard input ends."""
    name, model, cache_dir = sys.argv[1:]
    module, _, attribute = name.partition(":")
    backend = getattr(importlib.import_module(module), attribute)(model, cache_dir=Path(cache_dir))
    asyncio.run(_serve(backend))


if __name__ == "__main__":
    main()
