"""Training images with captions: their sentences' vectors, and folders that have a file of captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.training.data import ImageData, batch_places, fitted, scaled, seed_of, unreadable
from models.training.sentences import SentenceEncoder
from models.training.settings import CAPTION_FILES

Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class CaptionedImages(ImageData):
    """Images with one or more captions each. There are no classes; an image's label is its own place."""

    vectors: Tensor
    """Captions by `sentences.WIDTH`, those of an image beside each other, in the images' order."""
    starts: Tensor
    """Where each image's captions start, and where the last one's end."""

    def batch(self, step: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images, and of each the vector of one of its captions, drawn for this step."""
        if size > len(self):
            raise ValueError(f"a batch of {size} is more than the {len(self)} images that there are")
        chosen = batch_places(len(self), step, size, seed)
        drawn = torch.rand(size, generator=torch.Generator().manual_seed(seed_of(seed, -1 - step)))
        first, last = self.starts[chosen], self.starts[chosen + 1]
        return scaled(self.images[chosen]), self.vectors[(first + drawn * (last - first)).long()].float()

    def examples(self, count: int) -> Tensor:
        """The first captions of some images, with nothing that is not wanted."""
        places = torch.linspace(0, len(self) - 1, min(count, len(self))).long()
        wanted = self.vectors[self.starts[places]].float()
        return torch.stack([wanted, torch.zeros_like(wanted)], dim=1)


def captioned(
    images: Tensor,
    captions: Sequence[Sequence[str]],
    encoder: SentenceEncoder,
    *,
    source: str,
    license: str,  # noqa: A002
) -> CaptionedImages:
    """Images (count by channels by height by width, bytes) with at least one caption each."""
    lengths = torch.tensor([0, *(len(those) for those in captions)])
    return CaptionedImages(
        images=images,
        labels=torch.arange(len(images)),
        classes=(),
        vectors=encoder.vectors([text for those in captions for text in those]).half(),
        starts=lengths.cumsum(0),
        source=source,
        license=license,
    )


class CaptionLine(BaseModel):
    """A line of a file of captions, as Hugging Face's imagefolder has them; other fields may stand there too.

    Source: https://huggingface.co/docs/datasets/image_dataset#imagefolder
    """

    model_config = ConfigDict(frozen=True)

    file_name: Text
    text: Text | Annotated[list[Text], Field(min_length=1)]


def captioned_folder(
    folder: Path,
    *,
    size: tuple[int, int],
    grey: bool = False,
    license: str = "unknown",  # noqa: A002
) -> CaptionedImages:
    """The images that a folder's `captions.jsonl` or `metadata.jsonl` names, fitted as `image_folder` fits them.

    Raises:
        ModelError: kind MODEL; code `training_data_unreadable`: there is no such file, or two, a line of it is no
            caption (file and line are told), or an image cannot be read; or as `SentenceEncoder`.
    """
    named = read_captions(folder)
    pictures = np.stack([fitted(path, size, grey=grey) for path in named])
    captions = list(named.values())
    return captioned(
        torch.from_numpy(pictures),
        captions,
        SentenceEncoder(),
        source=f"the folder {folder.name}: {len(named)} images with {sum(map(len, captions))} captions",
        license=license,
    )


def read_captions(folder: Path) -> dict[Path, list[str]]:
    """The captions of each image, in the order of their first lines.

    Raises:
        ModelError: as `captioned_folder`.
    """
    there = [folder / name for name in CAPTION_FILES if (folder / name).is_file()]
    if len(there) != 1:
        found = "both" if there else "none"
        raise unreadable(
            f"the folder {folder} needs one of {' and '.join(CAPTION_FILES)} to learn captions from, and has {found}"
        )
    captions: dict[Path, list[str]] = {}
    for number, line in enumerate(there[0].read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{there[0]}, line {number}"
        try:
            told = CaptionLine.model_validate(json.loads(line))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = first["loc"][0] if first["loc"] else "the line"
            raise unreadable(
                f'{where}: {field}: {first["msg"]}; a line is {{"file_name": "cup.png", "text": "a red cup"}}, and '
                "text may be a list of captions"
            ) from error
        except ValueError as error:
            raise unreadable(f"{where}: not JSON: {error}") from error
        path = folder / told.file_name
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise unreadable(f"{where}: there is no image {told.file_name!r} in the folder")
        captions.setdefault(path, []).extend([told.text] if isinstance(told.text, str) else told.text)
    if not captions:
        raise unreadable(f"{there[0]} is empty: it needs a line for each image")
    return captions
