"""What commands say and how they end: exit codes, errors without tracebacks, tables, JSON."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

OK = 0
NOT_COMPLETED = 1
BAD_INPUT = 2
UNREACHABLE = 3
INTERRUPTED = 128 + signal.SIGINT
PIPED_WIDTH = 200
DEBUG = "NIGHTMILL_DEBUG"

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class CommandError(Exception):
    """A command cannot do what was asked; the message is for the person, `code` is the exit code."""

    def __init__(self, message: str, code: int = NOT_COMPLETED) -> None:
        super().__init__(message)
        self.code = code


def stderr() -> Console:
    """Where progress and errors go."""
    from rich.console import Console  # noqa: PLC0415 - not for `--help`

    return Console(stderr=True, highlight=False)


def stdout(*, widest: int | None = None) -> Console:
    """Where results go. Tables keep their width when they are piped."""
    from rich.console import Console  # noqa: PLC0415 - not for `--help`

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
    if widest is not None and console.width > widest:
        console.width = widest
    return console


def say(text: str) -> None:
    """One line for the person, beside the results."""
    stderr().print(text, markup=False, soft_wrap=True)


def print_json(value: object) -> None:
    """A result as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Rows under headings; the columns in `right` are numbers."""
    from rich.table import Table  # noqa: PLC0415 - not for `--help`

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    stdout().print(table)


def _plain(text: str) -> str:
    """Text in which rich finds no markup."""
    return text.replace("[", r"\[")


def fail(error: BaseException, code: int) -> NoReturn:
    """Say what went wrong and end with this exit code."""
    console = stderr()
    console.print("error:", style="bold red", end=" ")
    console.print(str(error), markup=False, soft_wrap=True)
    if os.environ.get(DEBUG):
        console.print_exception()
    raise typer.Exit(code)


def guarded(command: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Give a command our exit codes, and the person a sentence in place of a traceback."""

    @functools.wraps(command)
    def run(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
        try:
            return command(*args, **kwargs)
        except typer.Exit:
            raise
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has read enough (`nightmill results … | head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(OK) from None
        except Exception as error:  # noqa: BLE001 - the one place where any error becomes a sentence and an exit code
            fail(_worded(error), code_of(error))

    return run


def code_of(error: Exception) -> int:
    """The exit code that an error means."""
    # Only what has been imported can have been raised, so nothing is imported for the sake of a comparison.
    codes = {
        "orchestrator.spec_error.SpecError": BAD_INPUT,
        "workers.settings.SettingsError": BAD_INPUT,
        "orchestrator.stackfile.StackRunningError": BAD_INPUT,
        "orchestrator.client.UnreachableError": UNREACHABLE,
        "orchestrator.embedded.StackError": UNREACHABLE,
        "orchestrator.database.DatabaseError": UNREACHABLE,
        "workers.broker.BrokerError": UNREACHABLE,
        "workers.store.StoreError": UNREACHABLE,
    }
    if isinstance(error, CommandError):
        return error.code
    for kind in type(error).__mro__:
        code = codes.get(f"{kind.__module__}.{kind.__qualname__}")
        if code is not None:
            return code
    status = getattr(error, "status", 500)  # of an ApiError
    return BAD_INPUT if 400 <= status < 500 else NOT_COMPLETED


def _worded(error: Exception) -> Exception:
    """The error as a person should read it."""
    if isinstance(error, OSError) and error.filename is not None:
        return CommandError(f"{error.filename}: {error.strerror}")
    known = type(error).__module__.split(".", 1)[0] in {"orchestrator", "workers", "models"}
    if known or isinstance(error, OSError):
        return error
    return CommandError(
        f"this should not have happened: {type(error).__name__}: {error}. Run it again with --debug to see where"
    )
