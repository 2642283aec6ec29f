"""The speech engine: that it speaks, that neighbours change nothing, and what it says of what it cannot speak."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.audio import MAX_CHARACTERS, AudioRequest, AudioResult, AudioSettings, Sound
from models.backends import hibari_files
from models.backends.hibari import HibariBackend
from models.errors import FailureKind, ModelError
from tests.support.sounds import loudness, share_between

pytest.importorskip("hibari")
SENTENCES = (
    "The storm jacket has taped seams and a hood for a helmet.",
    "It is light, and it dries within an hour.",
    "Delivery takes two to three working days. Returns are free for sixty days.",
    "Hi!",
)


def ask(index: int, text: str, **fields: Any) -> AudioRequest:
    return AudioRequest(
        index=index,
        seed=fields.pop("seed", 100 + index),
        text=text,
        settings=AudioSettings.model_validate(fields),
    )


@pytest.fixture(scope="module")
def voice() -> Iterator[HibariBackend]:
    backend = HibariBackend()  # it belongs to no event loop
    info = asyncio.run(backend.load())
    assert (info.model, info.reproducible, info.engine) == ("hibari-tts", "exact", "onnx")
    yield backend
    asyncio.run(backend.close())


async def answers(backend: HibariBackend, requests: Sequence[AudioRequest]) -> dict[int, AudioResult]:
    found = [result async for group in backend.generate(requests) for result in group]
    assert len(found) == len(requests)
    return {result.index: result for result in found}


async def said(backend: HibariBackend, text: str, **fields: Any) -> Sound:
    sound = (await answers(backend, [ask(0, text, **fields)]))[0].sound
    assert sound is not None
    return sound


async def test_what_is_spoken_sounds_like_a_voice(voice: HibariBackend) -> None:
    for sentence in SENTENCES[:3]:
        sound = await said(voice, sentence)
        assert sound.sample_rate == 24_000
        assert share_between(sound.samples, sound.sample_rate, 80, 4000) > 0.9
        assert 300 < loudness(sound.samples) < 10_000
        assert np.abs(sound.samples.astype(int)).max() < 32_767
        # People speak 10 to 20 characters a second of English; the model leaves some silence around it.
        assert 8 < len(sentence) / sound.seconds < 25
        # Speech rises and falls: a tone or a noise would be as loud in each tenth of a second.
        tenths = sound.samples[: len(sound.samples) // 2400 * 2400].reshape(-1, 2400)
        loud = sorted(loudness(tenth) for tenth in tenths)
        assert loud[-1] > 5 * loud[0]


async def test_more_text_takes_longer_and_more_speed_less(voice: HibariBackend) -> None:
    short, long = await said(voice, SENTENCES[0]), await said(voice, f"{SENTENCES[0]} {SENTENCES[1]}")
    fast = await said(voice, SENTENCES[0], speed=1.5)
    assert long.seconds > short.seconds + 1
    assert short.seconds / fast.seconds == pytest.approx(1.5, rel=0.1)


async def test_a_pause_stands_between_two_sentences(voice: HibariBackend) -> None:
    bare, paused = await said(voice, SENTENCES[2], pause=0), await said(voice, SENTENCES[2], pause=0.5)
    assert len(paused.samples) - len(bare.samples) == 12_000


async def test_a_sound_does_not_depend_on_what_is_spoken_beside_it(voice: HibariBackend) -> None:
    requests = [ask(index, SENTENCES[index % len(SENTENCES)]) for index in range(8)]
    together = await answers(voice, requests)
    calls = await asyncio.gather(*(answers(voice, requests[start::3]) for start in range(3)))
    for apart in (*calls, *[await answers(voice, [request]) for request in reversed(requests)]):
        for index, result in apart.items():
            sound, other = result.sound, together[index].sound
            assert sound is not None
            assert other is not None
            assert sound.samples.tobytes() == other.samples.tobytes()


async def test_another_seed_is_another_breath_and_the_same_words(voice: HibariBackend) -> None:
    one, other = await said(voice, SENTENCES[0], seed=1), await said(voice, SENTENCES[0], seed=2)
    assert len(one.samples) == len(other.samples)
    assert (one.samples != other.samples).any()
    assert np.corrcoef(one.samples, other.samples)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("", "unspeakable", "the text is empty"),
        (" \n\t", "unspeakable", "the text is empty"),
        ("…?!", "unspeakable", "'…?!' has no word"),
        ("😀", "unspeakable", "has no word"),
        ("Hello, Мария", "unsupported_text", "character 8 of the text is 'М' (cyrillic capital letter em)"),
        ("The price is ٣٤", "unsupported_text", "arabic-indic digit three"),
        ("你好", "unsupported_text", "character 1"),
        ("a " * MAX_CHARACTERS, "text_too_long", "10,000 characters; at most 5,000"),
    ],
)
async def test_what_cannot_be_spoken_is_an_error_of_its_item(
    voice: HibariBackend, text: str, code: str, says: str
) -> None:
    found = await answers(voice, [ask(0, text), ask(1, "Hi!")])
    error = found[0].error
    assert error is not None
    assert error.code == code
    assert says in error.message
    assert found[1].sound is not None


async def test_accents_units_and_stray_marks_are_no_error(voice: HibariBackend) -> None:
    composed, decomposed = await said(voice, "A caf\u00e9."), await said(voice, "A cafe\u0301.")
    assert composed.samples.tobytes() == decomposed.samples.tobytes()
    assert (await said(voice, "5 µm at 20 °C 😀 — naïve “façade”…")).seconds > 2


async def test_a_sentence_without_an_end_is_cut_between_words(voice: HibariBackend) -> None:
    sound = await said(voice, "word " * 200)
    assert 30 < sound.seconds < 90


async def test_who_leaves_is_not_waited_for_and_a_closed_engine_says_so() -> None:
    backend = HibariBackend()
    await backend.load()
    groups = backend.generate([ask(index, SENTENCES[2] * 5) for index in range(8)])
    await anext(groups)
    await groups.aclose()
    assert backend.quiet_seconds() == 0
    # The threads are free again at once: a short text does not wait behind seven long ones.
    assert (await asyncio.wait_for(answers(backend, [ask(0, "Hi!")]), 60))[0].sound is not None
    speaking = backend.generate([ask(index, SENTENCES[2] * 5) for index in range(8)])
    await anext(speaking)
    await backend.close()
    with pytest.raises(ModelError) as raised:
        async for _ in speaking:
            pass
    assert (raised.value.kind, raised.value.code) == (FailureKind.ENGINE, "engine_closed")
    with pytest.raises(ModelError, match="not loaded"):
        await anext(backend.generate([ask(0, "Hi!")]))


async def test_a_changed_file_of_the_package_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(hibari_files.FILES["g2p/lexicon.py"], sha256="0" * 64)
    monkeypatch.setitem(hibari_files.FILES, "g2p/lexicon.py", changed)
    with pytest.raises(ModelError) as raised:
        await HibariBackend().load()
    assert (raised.value.kind, raised.value.code) == (FailureKind.MODEL, "weights_changed")
