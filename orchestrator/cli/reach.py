"""Finds the service that a command speaks to: the one that is named, the one that runs here, or one started for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from orchestrator.cli.output import UNREACHABLE, CommandError, say
from orchestrator.client import Client
from orchestrator.settings import Settings
from orchestrator.stackfile import StackRecord, others_use_stack, read_record, using_stack
from workers.settings import load_settings

if TYPE_CHECKING:
    from orchestrator.embedded import EmbeddedStack

START_SECONDS = 120.0
STARTED_BY_HAND = "start it with `nightmill up`, or set NIGHTMILL_API_URL to the address of one that runs elsewhere"


@dataclass(frozen=True, slots=True)
class Service:
    """A service that can be spoken to; `stack` is set where this command started it and ends it."""

    client: Client
    stack: EmbeddedStack | None = None


def settings_for(data_dir: Path | None = None) -> Settings:
    """The settings of this process, with `--data-dir` where it was given."""
    settings = load_settings(Settings)
    if data_dir is None:
        return settings
    return settings.model_copy(update={"data_dir": data_dir.expanduser().absolute()})


@contextmanager
def running_service(settings: Settings) -> Iterator[Client]:
    """The service that is named or that runs here.

    Raises:
        CommandError: there is none.
    """
    with ExitStack() as held:
        client = _existing(settings, held)
        if client is None:
            raise CommandError(f"no stack is running in {settings.data_dir}; {STARTED_BY_HAND}", UNREACHABLE)
        yield client


@contextmanager
def reading_service(settings: Settings) -> Iterator[Client]:
    """A service for a command that only reads: where no stack runs here, its API alone is started for the moment."""
    with ExitStack() as held:
        client = _existing(settings, held)
        if client is None:
            if not settings.database_url and not (settings.data_dir / "nightmill.db").exists():
                raise CommandError(
                    f"no stack is running in {settings.data_dir}, and none ever did; {STARTED_BY_HAND}", UNREACHABLE
                )
            from orchestrator.embedded import EmbeddedStack  # noqa: PLC0415 - only where something is started

            stack = held.enter_context(EmbeddedStack(settings, say, reading=True))
            stack.wait()
            client = held.enter_context(Client(stack.url, settings.api_key))
        yield client


@contextmanager
def any_service(settings: Settings, phase: Callable[[str], None]) -> Iterator[Service]:
    """The service that is named or runs here; else a stack of our own, which ends with the context."""
    with ExitStack() as held:
        client = _existing(settings, held, phase)
        if client is not None:
            yield Service(client)
            return
        from orchestrator.embedded import EmbeddedStack  # noqa: PLC0415 - only where something is started

        phase("starting")
        held.enter_context(ending_on_signals())
        stack = held.enter_context(EmbeddedStack(settings, say, temporary=True))
        stack.wait("api")
        yield Service(held.enter_context(Client(stack.url, settings.api_key)), stack)
        _let_others_finish(settings.data_dir)


def _existing(settings: Settings, held: ExitStack, phase: Callable[[str], None] = lambda _: None) -> Client | None:
    if settings.api_url:
        return held.enter_context(Client(settings.api_url, settings.api_key))
    record = read_record(settings.data_dir)
    if record is None or record.state == "stopping":
        return None
    if record.temporary:
        held.enter_context(using_stack(settings.data_dir))
    if record.state == "starting":
        phase("waiting for the stack")
        record = await_stack(settings.data_dir, record.pid)
    return held.enter_context(Client(record.url, settings.api_key))


def await_stack(data_dir: Path, pid: int) -> StackRecord:
    """Wait until the stack whose launcher is `pid` is ready.

    Raises:
        CommandError: it ended before, or takes too long.
    """
    pause = threading.Event()
    for _ in range(round(START_SECONDS / 0.1)):
        record = read_record(data_dir)
        if record is None or record.pid != pid:
            raise CommandError(f"the stack in {data_dir} ended while it started", UNREACHABLE)
        if record.state == "ready":
            return record
        pause.wait(0.1)
    raise CommandError(f"the stack in {data_dir} was not ready after {START_SECONDS:.0f} s", UNREACHABLE)


def _let_others_finish(data_dir: Path) -> None:
    """A second `run` may use the stack that the first one started; the first waits for it."""
    if not others_use_stack(data_dir):
        return
    say("another command still uses this stack: waiting for it (Ctrl-C stops the stack now)")
    pause = threading.Event()
    while others_use_stack(data_dir):
        pause.wait(0.2)


@contextmanager
def ending_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the command as Ctrl-C does: through every `finally`."""

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    earlier = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, what in earlier.items():
            signal.signal(number, what)
