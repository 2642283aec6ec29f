"""How long a file is kept: `{"anchor": "created_at", "seconds": 3600}`."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.api.errors import RequestError

SHORTEST_SECONDS = 60
LONGEST_SECONDS = 3660 * 86_400


def expires_after(given: object, param: str = "expires_after") -> int:
    """Seconds that a file is kept, of JSON or of the fields of a form.

    Raises:
        RequestError: it is not of that form, or out of bounds.
    """
    example = (
        f'write {{"anchor": "created_at", "seconds": 86400}}, from {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds'
    )
    if not isinstance(given, Mapping) or set(given) - {"anchor", "seconds"}:
        raise RequestError(f"{param} is not understood; {example}", param=param, code="invalid_value")
    if given.get("anchor") != "created_at":
        raise RequestError(
            f"{param}.anchor is {given.get('anchor')!r}; {example}", param=f"{param}.anchor", code="invalid_value"
        )
    seconds = given.get("seconds")
    if isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal() and len(seconds) < 19:
        seconds = int(seconds)
    if type(seconds) is not int or not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise RequestError(f"{param}.seconds is {seconds!r}; {example}", param=f"{param}.seconds", code="invalid_value")
    return seconds
