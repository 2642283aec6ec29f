"""Images with captions: files of captions, what a step is given of them, and packages of pictures."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from models.errors import ModelError
from models.training.captions import captioned_folder, read_captions
from models.training.objects import Name, NpmPackage
from models.training.sentences import SentenceEncoder
from tests.support.tiny_models import captioned_squares


def write(folder: Path, lines: list[Any], name: str = "captions.jsonl") -> None:
    for file in ("cup.png", "deep/dog.png"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10), "red").save(folder / file)
    (folder / name).write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def test_captions_are_read_with_one_line_or_several_an_image(tmp_path: Path) -> None:
    write(
        tmp_path,
        [
            {"file_name": "deep/dog.png", "text": "a dog", "license": "mine"},
            "",
            {"file_name": "cup.png", "text": ["a cup", "eine Tasse"]},
            {"file_name": "deep/dog.png", "text": "un chien"},
        ],
        "metadata.jsonl",
    )
    assert read_captions(tmp_path) == {
        tmp_path / "deep/dog.png": ["a dog", "un chien"],
        tmp_path / "cup.png": ["a cup", "eine Tasse"],
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"file_name": "cup.png"', "line 2: not JSON"),
        ({"file_name": "cup.png"}, "line 2: text: Field required"),
        ({"file_name": "cup.png", "text": []}, "line 2: text"),
        ({"file_name": "cup.png", "text": ["a cup", ""]}, "line 2: text"),
        ({"file_name": "cup.png", "text": 3}, 'text": "a red cup"'),
        ({"text": "a cup"}, "line 2: file_name: Field required"),
        (["cup.png"], "line 2: the line"),
        ({"file_name": "pot.png", "text": "a pot"}, "line 2: there is no image 'pot.png'"),
        ({"file_name": "../cup.png", "text": "a cup"}, "line 2: there is no image"),
    ],
)
def test_lines_that_are_no_captions_are_named(tmp_path: Path, line: Any, told: str) -> None:
    folder = tmp_path / "photos"
    write(folder, [{"file_name": "cup.png", "text": "a cup"}, line])
    Image.new("RGB", (4, 4)).save(tmp_path / "cup.png")
    with pytest.raises(ModelError) as caught:
        read_captions(folder)
    assert caught.value.code == "training_data_unreadable"
    assert "captions.jsonl" in caught.value.message
    assert told in caught.value.message


def test_a_folder_has_one_file_of_captions(tmp_path: Path) -> None:
    write(tmp_path, [], "metadata.jsonl")
    with pytest.raises(ModelError, match="is empty"):
        read_captions(tmp_path)
    write(tmp_path, [])
    with pytest.raises(ModelError, match="has both"):
        read_captions(tmp_path)
    for name in ("captions.jsonl", "metadata.jsonl"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelError, match=r"needs one of captions.jsonl and metadata.jsonl .* has none"):
        read_captions(tmp_path)


def test_a_folder_becomes_images_with_the_vectors_of_their_captions(tmp_path: Path) -> None:
    write(
        tmp_path,
        [{"file_name": "cup.png", "text": ["a cup", "a mug"]}, {"file_name": "deep/dog.png", "text": "a dog"}],
    )
    data = captioned_folder(tmp_path, size=(16, 16), license="CC0-1.0")
    assert data.images.shape == (2, 3, 16, 16)
    assert data.starts.tolist() == [0, 2, 3]
    assert data.classes == ()
    assert "2 images with 3 captions" in data.source
    dog = SentenceEncoder().vector("a dog")
    assert torch.allclose(data.vectors[2].float(), dog, atol=1e-3)
    assert torch.allclose(data.examples(10)[1, 0], dog, atol=1e-3)
    assert data.examples(10)[:, 1].abs().max() == 0  # nothing is unwanted


def test_a_step_is_given_a_caption_of_each_image() -> None:
    data = captioned_squares(4)
    seen: dict[int, set[int]] = {place: set() for place in range(4)}
    keys = {image.numpy().tobytes(): place for place, image in enumerate(data.images)}
    for step in range(40):
        images, vectors = data.batch(step, 2, 7)
        assert torch.equal(vectors, data.batch(step, 2, 7)[1])
        for image, vector in zip(images, vectors, strict=True):
            place = keys[((image + 1) * 127.5).round().to(torch.uint8).numpy().tobytes()]
            [caption] = [number for number in range(3) if torch.equal(vector, data.vectors[3 * place + number])]
            seen[place].add(caption)
    assert all(captions == {0, 1, 2} for captions in seen.values())


def package(folder: Path, **files: str) -> NpmPackage:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    content = buffer.getvalue()
    (folder / "some-thing-1.0.0.tgz").write_bytes(content)
    return NpmPackage("@some/thing", "1.0.0", base64.b64encode(hashlib.sha512(content).digest()).decode())


def test_a_package_is_read_if_it_is_the_one_that_was_pinned(tmp_path: Path) -> None:
    made = package(tmp_path, a="one", b="two")
    assert dict(made.members(tmp_path)) == {"a": b"one", "b": b"two"}
    with (tmp_path / made.file).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match=r"is not the archive of @some/thing@1\.0\.0"):
        next(made.members(tmp_path))


def test_a_name_is_a_caption_alone_and_with_tags() -> None:
    name = Name(hexcode="1F345-FE0F", label="tomato", tags=("Tomato", "fruit", "vegetable", "red", "round"))
    assert name.code == "1f345"
    assert name.captions == ["tomato", "tomato, fruit, vegetable, red"]
    assert Name(hexcode="1F345", label="tomato").captions == ["tomato"]
