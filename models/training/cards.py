"""Model cards: Markdown with a YAML head, written beside a model's weights as README.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from models.training.families import ImageSpace
from models.training.saved import SavedModel
from models.training.sentences import LANGUAGES
from models.training.settings import FamilyName, TrainingSettings

CARD = "README.md"
WHAT: Final[dict[FamilyName, str]] = {
    "diffusion": "A diffusion model (flow matching on a UNet, guidance without a classifier)",
    "gan": "The generator of a generative adversarial network (hinge loss, spectral norm, projection discriminator)",
    "vae": "The decoder of a conditional variational autoencoder",
    "ar": "An autoregressive model: a transformer that writes discrete codes, and the decoder that draws them",
    "text-diffusion": "A text-to-image model: flow matching on a UNet in the space of a small autoencoder, on the "
    "vector of a sentence (models/training/sentences.py), with guidance without a classifier",
}
FIGURES: Final[dict[str, str]] = {
    "fid": "FID to the test images",
    "class_accuracy": "class accuracy",
    "trained_on_samples": "accuracy on real test images of a classifier that was trained on the images alone",
}

MEANT_FOR = """
## Meant for

Testing and learning: a small model whose every part can be read, and a source of images where no larger model can be
had.

## Limits

"""
OF_CLASSES = "It knows its classes and nothing else: words of a prompt that name no class are not drawn.\n"
OF_TEXT = """It has seen nothing but its training images: a prompt for anything else becomes the nearest of what it
knows, or a blend. A sentence is one vector to it: the order of words, numbers, and who does what to whom mean little.
"""
LIMITS = """It repeats what its training data hold, and lacks what they lack. Its pictures are not of things that exist;
do not sell by them.
"""


def write_card(folder: Path, about: SavedModel, metrics: Mapping[str, Any], remarks: str = "") -> None:
    """Write the card of the model in `folder`.

    `metrics` are the figures of benchmarks/image_quality.py, or of any other measurement: they go into the head as
    they are. `remarks` say what no figure says.
    """
    (folder / CARD).write_text(card(folder.name, about, metrics, remarks))


def card(name: str, about: SavedModel, metrics: Mapping[str, Any], remarks: str = "") -> str:
    """The card's text."""
    training = about.training
    head = {
        "name": name,
        "license": "Apache-2.0" if training["license"] in ("MIT", "CC0-1.0", "Apache-2.0") else "unknown",
        "family": about.family,
        "data": {"source": training["source"], "license": training["license"], "images": training["images"]},
        "classes": list(about.space.classes) or "none: it draws what a text says",
        "size": f"{about.space.width}x{about.space.height}, {'grey' if about.space.channels == 1 else 'colour'}",
        "options": about.options,
        "settings": training["settings"],
        "steps": training["step"],
        "losses": training["losses"],
        "metrics": dict(metrics),
    }
    space = about.space
    text = (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n"
        f"{WHAT[about.family]}. It makes pictures of {space.width} by {space.height} pixels of "
        f"{_subject(space)}.\n\n"
        f"Trained by `models/training` for {training['step']} steps on {training['source']} "
        f"({training['images']} images, licence: {training['license']}).\n"
    )
    if "fid" in metrics:
        text += _figures(metrics)
    if remarks:
        text += f"\n## To look at\n\n{remarks}\n"
    return text + MEANT_FOR + (OF_CLASSES if space.classes else OF_TEXT) + LIMITS


def _subject(space: ImageSpace) -> str:
    if space.classes:
        return f"a class: {', '.join(space.classes)}"
    return f"what a prompt says, in any of these languages: {', '.join(LANGUAGES)}"


def _figures(metrics: Mapping[str, Any]) -> str:
    reference = metrics["reference"]
    lines = ["| | samples | as many training images |", "| --- | --- | --- |"]
    for key, title in FIGURES.items():
        digits = 2 if key == "fid" else 3
        lines.append(f"| {title} | {metrics[key]:.{digits}f} | {reference['training_images'][key]:.{digits}f} |")
    near, test = metrics["nearest_neighbour"], reference["test_images"]
    head = (
        f"\n## Quality\n\nMeasured on {reference['count']} samples by `benchmarks/image_quality.py`, with a classifier "
        f"that finds {reference['classifier_accuracy']:.1%} of the test images' classes; FID is of its features and "
        "compares with no other FID.\n\n"
    )
    near_ones = (
        f"\n\nFrom a sample to the nearest training image it is {near['median']:.3f} in the median and "
        f"{near['first_percentile']:.3f} at the first percentile (root mean square difference of levels from 0 to 1); "
        f"from a test image {test['median']:.3f} and {test['first_percentile']:.3f}.\n"
    )
    return head + "\n".join(lines) + near_ones


@dataclass(frozen=True, kw_only=True)
class AdapterAbout:
    """What an adapter's card says."""

    name: str
    base: str
    base_revision: str
    kind: Literal["text", "image"]
    settings: TrainingSettings
    source: str
    license: str
    """Of the data."""
    learned: int
    held_out: int
    step: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]


def adapter_card(about: AdapterAbout) -> str:
    """The card of a LoRA adapter."""
    head = {
        "name": about.name,
        "base_model": about.base,
        "base_revision": about.base_revision,
        "kind": about.kind,
        "license": "unknown",
        "data": {"source": about.source, "license": about.license},
        "examples": {"learned": about.learned, "held_out": about.held_out},
        "options": about.settings.options,
        "settings": about.settings.model_dump(mode="json", exclude={"family", "options"}),
        "steps": about.step,
        "losses": dict(about.losses),
        "metrics": dict(about.metrics),
    }
    use = (
        f"`adapter: {about.name}` in a text job whose model is `{about.base}`"
        if about.kind == "text"
        else f"`image.loras` of an image job whose model is `{about.base}`"
    )
    text = (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {about.name}\n\n"
        f"A LoRA adapter of {about.base} ({about.base_revision}), trained for {about.step} steps on {about.source} "
        f"(licence: {about.license}). It is used by {use}. Without its base it is nothing, and the base's licence "
        "holds for both together.\n"
    )
    if about.metrics:
        before, after = about.metrics["held_out_loss_before"], about.metrics["held_out_loss"]
        text += (
            f"\n## Quality\n\nLoss on {about.held_out} examples that were held out: {before:.4f} before, {after:.4f} "
            "after. A lower loss says that it foretells such examples better, and nothing of what they are worth.\n"
        )
    return text + "\n## Limits\n\nIt repeats what its training data hold, and lacks what they lack.\n"
