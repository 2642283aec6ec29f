"""Uploads: a source file goes from the request's body into the store, as it arrives."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any

from anyio import from_thread, lowlevel
from fastapi import APIRouter, Path, Request
from fastapi.concurrency import run_in_threadpool
from typing_extensions import Buffer
from ulid import ULID

from orchestrator.api.errors import RequestError
from orchestrator.api.services import Services, ServicesOf
from workers.store import UPLOAD_SCHEME

router = APIRouter(tags=["inputs"])
MAX_NAME = 200
FileName = Annotated[str, Path(description="What the file is called; its ending says its format.", max_length=MAX_NAME)]
_BODY: dict[str, Any] = {  # OpenAPI
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class BodyReader(io.RawIOBase):
    """A request's body as a file that any thread reads, while the event loop receives it. Counts and hashes."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._loop = lowlevel.current_token()  # boto3 reads from threads of its own
        self._chunks = chunks
        self._rest = b""
        self._digest = hashlib.sha256()
        self.size = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill the buffer with what has come; 0 at the end of the body."""
        view = memoryview(buffer).cast("B")
        while not self._rest:
            chunk = from_thread.run(self._next, token=self._loop)
            if chunk is None:
                return 0
            self._rest = chunk
            self._digest.update(chunk)
            self.size += len(chunk)
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)

    @property
    def sha256(self) -> str:
        """Digest of what has been read."""
        return self._digest.hexdigest()

    async def _next(self) -> bytes | None:
        return await anext(self._chunks, None)


@router.put("/v1/inputs/{filename}", operation_id="upload_input", openapi_extra=_BODY)
async def upload_input(filename: FileName, request: Request, services: ServicesOf) -> dict[str, str | int]:
    """Keep a source file; the `uri` in the answer is what a job's `source.file` names."""
    if filename in {".", ".."} or not filename.isprintable() or set(filename) & set("/\\"):
        raise RequestError(f"{filename!r} is no name of a file", param="filename", code="invalid_name")
    return await run_in_threadpool(_keep, filename, BodyReader(request.stream()), services)


def _keep(filename: str, body: BodyReader, services: Services) -> dict[str, str | int]:
    key = f"inputs/{ULID()}/{filename}"
    services.store.put_stream(key, io.BufferedReader(body, 1 << 20))
    return {"uri": UPLOAD_SCHEME + key, "bytes": body.size, "sha256": body.sha256}
