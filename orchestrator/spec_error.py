"""The one error for what a person got wrong: in a job file, a request body, a template or a source."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SpecError(Exception):
    """Something in a job is not as it must be. `str(error)` says where, what, and what would be right.

    Attributes:
        message: What is wrong, without the place.
        param: The field of the job that it is about (`sampling.max_tokens`), as the API names it.
        file: The file as its owner calls it: a job file or a source.
        line: The line of that file, from 1.
        code: For programs: `invalid_job`, `invalid_source`, `source_changed`, `unknown_model`.
    """

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        line: int | None = None,
        file: str | None = None,
        code: str = "invalid_job",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.line = line
        self.file = file
        self.code = code

    def __str__(self) -> str:
        place = ", ".join([*([self.file] if self.file else []), *([f"line {self.line}"] if self.line else [])])
        return f"{place}: {self.message}" if place else self.message

    def at(self, *, file: str | None, line: int | None = None) -> SpecError:
        """The same error with its place, where it has none yet."""
        return SpecError(self.message, param=self.param, line=self.line or line, file=self.file or file, code=self.code)

    def renamed(self, param: str, to: str) -> SpecError:
        """The same error, said of the field that a job has in place of one that it is planned with."""
        named = to if self.param == param else self.param
        return SpecError(self.message, param=named, line=self.line, file=self.file, code=self.code)

    def within(self, place: str) -> SpecError:
        """The same error of a part of a job: a node of a flow."""
        param = place if self.param is None else f"{place}.{self.param}"
        return SpecError(f"{place}: {self.message}", param=param, line=self.line, file=self.file, code=self.code)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be; None where none is close."""
    by_folded = {candidate.casefold(): candidate for candidate in known}
    if name.casefold() in by_folded:
        return by_folded[name.casefold()]
    close = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def choices(name: str, known: Iterable[str], *, limit: int = 12) -> str:
    """The end of a message about an unknown name: the nearest right one, or all of them where none is near."""
    names = list(known)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean {close!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
    return f"there is {shown}"
