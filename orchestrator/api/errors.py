"""Every error leaves as `{"error": {"message", "type", "param", "code"}}` with the status that fits."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg.errors
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from orchestrator.database import DatabaseError
from orchestrator.job_files import UnknownFileError
from orchestrator.jobs import ConflictError, UnknownJobError
from orchestrator.openai.batches import UnknownBatchError
from orchestrator.openai.files import UnknownFileError as UnknownStoredFileError
from orchestrator.spec_error import SpecError
from workers.broker import BrokerError
from workers.store import StoreError

log = logging.getLogger(__name__)

BAD_REQUEST, UNAUTHORIZED, NOT_FOUND, CONFLICT, TOO_LARGE = 400, 401, 404, 409, 413
SERVER_ERROR, UNAVAILABLE, STORAGE_FULL = 500, 503, 507
TYPES = {
    UNAUTHORIZED: "authentication_error",
    NOT_FOUND: "not_found_error",
    CONFLICT: "conflict_error",
    SERVER_ERROR: "server_error",
    UNAVAILABLE: "service_unavailable",
    STORAGE_FULL: "storage_full",
}
ERROR_SCHEMA: dict[str, Any] = {  # JSON Schema
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field of the request that is wrong."},
                "code": {"type": ["string", "null"], "description": "For programs: `unknown_model`, say."},
            },
        }
    },
}
_ERROR = {"description": "Error", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {"4XX": _ERROR, "5XX": _ERROR}  # OpenAPI


class RequestError(Exception):
    """The request cannot be answered as it is."""

    def __init__(
        self, message: str, *, status: int = BAD_REQUEST, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.param = param
        self.code = code


def answer(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    """An error as a response."""
    kind = TYPES.get(status, "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {"WWW-Authenticate": "Bearer"} if status == UNAUTHORIZED else None
    return JSONResponse(body, status, headers)


def is_full(error: BaseException | None) -> bool:
    """Whether an error was, at its root, a disk or a quota that is full."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return True
        if isinstance(error, psycopg.errors.DiskFull):
            return True
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__ or (error.orig if isinstance(error, DBAPIError) else None)
    return False


AnyError = TypeVar("AnyError", bound=Exception)


def install(app: FastAPI, database: str) -> None:
    """Teach the app to answer every error in our shape.

    Args:
        app: The app.
        database: Where the database is, as it may be shown.
    """

    def on(kind: type[AnyError], respond: Callable[[AnyError], JSONResponse]) -> None:
        def handle(_: Request, error: Exception) -> JSONResponse:
            assert isinstance(error, kind)  # noqa: S101 - Starlette calls it with no other
            return respond(error)

        app.add_exception_handler(kind, handle)

    def unavailable(code: str, error: Exception, message: str) -> JSONResponse:
        log.error("%s: %s", code, message)
        return answer(
            STORAGE_FULL if is_full(error) else UNAVAILABLE, message, code="disk_full" if is_full(error) else code
        )

    def in_database(error: DBAPIError | PoolTimeoutError) -> JSONResponse:
        cause = str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
        return unavailable("database_unavailable", error, f"the database {database} cannot be used: {cause}")

    on(RequestError, lambda error: answer(error.status, error.message, param=error.param, code=error.code))
    on(SpecError, lambda error: answer(BAD_REQUEST, str(error), param=error.param, code=error.code))
    on(UnknownJobError, lambda error: answer(NOT_FOUND, str(error), param="job_id", code="job_not_found"))
    on(UnknownFileError, lambda error: answer(NOT_FOUND, str(error), param=error.param, code=error.code))
    on(
        UnknownBatchError,
        lambda error: answer(NOT_FOUND, str(error), param=error.param, code="batch_not_found"),
    )
    on(
        UnknownStoredFileError,
        lambda error: answer(NOT_FOUND, str(error), param=error.param, code="file_not_found"),
    )
    on(ConflictError, lambda error: answer(CONFLICT, str(error), code="conflict"))
    on(StoreError, lambda error: unavailable("store_unavailable", error, str(error)))
    on(BrokerError, lambda error: unavailable("redis_unavailable", error, str(error)))
    on(DatabaseError, lambda error: unavailable("database_unavailable", error, str(error)))
    on(OperationalError, in_database)
    on(InterfaceError, in_database)
    on(PoolTimeoutError, in_database)
    on(HTTPException, lambda error: answer(error.status_code, _http_message(error)))
    on(RequestValidationError, _invalid)
    on(Exception, lambda _: answer(SERVER_ERROR, "something broke inside Nightmill; the API's log says what"))


def _http_message(error: HTTPException) -> str:
    if error.status_code == NOT_FOUND:
        return "there is nothing at this address; GET /docs lists what there is"
    return str(error.detail)


def _invalid(error: RequestValidationError) -> JSONResponse:
    """A parameter of the path, the query or a header that is not as it must be; the first one is named."""
    problem = error.errors()[0]
    name = str(problem["loc"][-1])
    return answer(BAD_REQUEST, f"{name}: {problem['msg']}", param=name, code="invalid_parameter")
