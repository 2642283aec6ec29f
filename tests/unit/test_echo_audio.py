"""The echo model for speech: the same tones whatever is asked beside them, and the faults that it is told to make."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models.audio import AudioRequest, AudioResult, AudioSettings
from models.backends.echo_audio import SAMPLE_RATE, EchoAudio, play
from models.backends.echo_batches import BATCH
from models.spec import EchoOptions
from tests.support.turns import turns


def ask(index: int, text: str, **settings: Any) -> AudioRequest:
    seed = settings.pop("seed", 1000 + index)
    return AudioRequest(index=index, seed=seed, text=text, settings=AudioSettings.model_validate(settings))


async def answers(requests: Sequence[AudioRequest], options: EchoOptions | None = None) -> dict[int, AudioResult]:
    found = [result async for group in EchoAudio(options).generate(requests) for result in group]
    assert len(found) == len(requests)
    return {result.index: result for result in found}


@pytest.mark.parametrize("size", [1, 3, BATCH, 20])
async def test_a_sound_does_not_depend_on_what_is_asked_beside_it(size: int) -> None:
    requests = [ask(index, f"tent number {index}") for index in range(20)]
    whole = await answers(requests)
    for start in range(0, 20, size):
        for index, result in (await answers(requests[start : start + size])).items():
            other = whole[index].sound
            assert result.sound is not None
            assert other is not None
            assert result.sound.samples.tobytes() == other.samples.tobytes()


def test_words_and_seed_make_the_sound_and_speed_its_length() -> None:
    same = play(ask(0, "a b", seed=5))
    assert (play(ask(9, " a\nb ", seed=5)) == same).all()
    assert len(same) == 2 * SAMPLE_RATE // 10
    assert all((play(other) != same).any() for other in (ask(0, "a c", seed=5), ask(0, "a b", seed=6)))
    assert len(play(ask(0, "a b", speed=2))) == len(same) // 2
    assert 1000 < np.abs(same.astype(int)).max() < 32_767


async def test_faults_are_made_as_told() -> None:
    found = await answers([ask(index, "x") for index in range(4)] + [ask(4, " ")], EchoOptions(fail_on=(1,)))
    codes = [error.code if (error := found[index].error) else None for index in range(5)]
    assert codes == [None, "echo_failure", None, None, "unspeakable"]
    hanging = EchoAudio(EchoOptions(hang_on=(0,)))
    groups = hanging.generate([ask(0, "x")])
    assert hanging.quiet_seconds() == 0
    waiting = asyncio.ensure_future(anext(groups))
    await turns(3)
    assert not waiting.done()
    assert hanging.quiet_seconds() > 0
    waiting.cancel()
