"""The echo model: its answers, its faults, and that both depend on the item alone."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from models.backends import echo
from models.backends.echo import GROUP, EchoBackend
from models.spec import EchoOptions, Message, Sampling, TextRequest, TextResult, Usage, output_seed


def request(index: int = 0, *messages: Message, options: EchoOptions | None = None, **fields: Any) -> TextRequest:
    sampling = Sampling(max_tokens=fields.pop("max_tokens", 64))
    spoken = messages or (Message("user", f"item {index}"),)
    return TextRequest(
        index=index, messages=spoken, sampling=sampling, seed=fields.pop("seed", index), options=options, **fields
    )


async def answers(requests: list[TextRequest], backend: EchoBackend | None = None) -> list[TextResult]:
    found = [result async for group in (backend or EchoBackend()).generate(requests) for result in group]
    return sorted(found, key=lambda result: result.index)


async def test_the_answer_is_the_last_user_message() -> None:
    spoken = (
        Message("system", "be brief"),
        Message("user", "one"),
        Message("assistant", "two"),
        Message("user", "a  b"),
    )
    (result,) = await answers([request(0, *spoken)])
    assert [(output.text, output.finish_reason) for output in result.outputs] == [("a  b", "stop")]
    assert result.usage == Usage(prompt_tokens=6, completion_tokens=2)


async def test_an_answer_is_cut_at_its_limit() -> None:
    (result,) = await answers([request(0, Message("user", "one two  three"), max_tokens=2)])
    assert (result.outputs[0].text, result.outputs[0].finish_reason) == ("one two", "length")
    assert result.usage.completion_tokens == 2


async def test_an_items_own_limit_comes_before_the_jobs() -> None:
    job_wide = request(0, Message("user", "one two three"), max_tokens=2)
    (result,) = await answers([msgspec.structs.replace(job_wide, max_tokens=1)])
    assert result.outputs[0].text == "one"


async def test_each_of_n_outputs_has_its_seed() -> None:
    (result,) = await answers([request(3, n=3, seed=9)])
    assert [output.seed for output in result.outputs] == [output_seed(9, k) for k in range(3)]
    assert result.usage.completion_tokens == 6


async def test_every_item_is_answered_once_in_groups() -> None:
    requests = [request(index) for index in range(2 * GROUP + 1)]
    sizes = [len(group) async for group in EchoBackend().generate(requests)]
    assert sizes == [GROUP, GROUP, 1]


async def test_the_loop_has_a_turn_before_each_group() -> None:
    loop = asyncio.get_running_loop()
    turns: list[int] = []
    groups = 0
    async for _ in EchoBackend().generate([request(index) for index in range(3 * GROUP)]):
        loop.call_soon(turns.append, groups)
        groups += 1
        assert len(turns) == groups - 1


async def test_it_says_exact_and_is() -> None:
    info = await EchoBackend().load()
    assert info.reproducible == "exact"
    options = EchoOptions(fail_rate=0.5)
    requests = [request(index, options=options, seed=index * 7919) for index in range(100)]
    together = await answers(requests)
    alone = [(await answers([one]))[0] for one in requests]
    backwards = await answers(requests[::-1])
    assert together == alone == backwards


async def test_the_share_that_fails_is_what_was_asked() -> None:
    options = EchoOptions(fail_rate=0.25)
    found = await answers([request(index, options=options, seed=index) for index in range(4000)])
    failed = [result for result in found if result.error is not None]
    assert 0.22 < len(failed) / len(found) < 0.28
    assert {result.error.code for result in failed if result.error} == {"echo_failure"}
    assert not any(result.outputs for result in failed)


async def test_named_items_fail_and_their_neighbours_do_not() -> None:
    found = await answers([request(index) for index in range(5)], EchoBackend(EchoOptions(fail_on=(1, 3))))
    assert [result.index for result in found if result.error] == [1, 3]


async def test_a_requests_own_options_come_before_the_backends() -> None:
    found = await answers([request(1, options=EchoOptions())], EchoBackend(EchoOptions(fail_on=(1,))))
    assert found[0].error is None


async def test_items_take_their_time_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(echo.asyncio, "sleep", wait)
    slow = EchoOptions(delay_ms=300)
    quick = EchoOptions(delay_ms=100)
    requests = [request(0, options=slow), request(1, options=quick), request(2, options=slow)]
    groups = [[result.index for result in group] async for group in EchoBackend().generate(requests)]
    assert groups == [[1], [0, 2]]
    assert waits == pytest.approx([0.1, 0.2])


async def test_an_item_that_hangs_lets_the_whole_engine_hang_and_can_be_left() -> None:
    backend = EchoBackend()
    assert backend.quiet_seconds() == 0
    first = backend.generate([request(index, options=EchoOptions(hang_on=(GROUP + 1,))) for index in range(2 * GROUP)])
    async with aclosing(first), aclosing(backend.generate([request(0)])) as other:
        assert len(await anext(first)) == GROUP
        waiting = [asyncio.ensure_future(anext(generating)) for generating in (first, other)]
        done, _ = await asyncio.wait(waiting, timeout=0.05)
        assert not done
        assert backend.quiet_seconds() > 0
        for each in waiting:
            each.cancel()
            with pytest.raises(asyncio.CancelledError):
                await each
    assert backend.quiet_seconds() == 0


async def test_an_item_that_crashes_ends_the_process_as_a_crash_does(monkeypatch: pytest.MonkeyPatch) -> None:
    class EndError(Exception):
        pass

    def end(pid: int, number: int) -> None:
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        raise EndError

    monkeypatch.setattr(echo.os, "kill", end)
    with pytest.raises(EndError):
        await answers([request(0), request(1)], EchoBackend(EchoOptions(crash_on=(1,))))


@pytest.mark.parametrize("seeds", [range(1000), range(0, 2**62, 2**52), [2**63 - 1 - step for step in range(1000)]])
def test_shares_of_neighbouring_seeds_spread_evenly(seeds: range | list[int]) -> None:
    shares = sorted(echo.share(seed) for seed in seeds)
    assert shares[0] >= 0
    assert shares[-1] < 1
    assert 0.42 < shares[len(shares) // 2] < 0.58
