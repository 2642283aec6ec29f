"""How good the shipped image models are: FID, class accuracy, and whether they have learned their images by heart.

- FID: Frechet distance between the features of samples and of the test images (Heusel et al., 2017,
  https://arxiv.org/abs/1706.08500), with features of benchmarks/fashion_classifier.py in place of Inception's, which
  knows no 28 by 28 grey images: compare these figures with each other, not with a paper's. Beside them stands the FID
  of as many training images.
- class accuracy: how often that classifier finds in a sample the class that was asked for.
- trained on samples: the accuracy on the real test images of a classifier that has seen samples alone, which a model
  that makes one good picture a class does not reach. Beside it stands the same with as many training images.
- nearest neighbour: the root mean square difference (0 to 1) of a sample to the nearest training image, beside that
  of test images. A model that has learned images by heart comes much nearer.

Writes results/image_quality.json and .md and, with --cards, the figures into the models' cards. Run as
`python -m benchmarks.image_quality [--models fashion-gan …] [--count 5000] [--cards]`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks import fashion_classifier
from benchmarks.fashion_classifier import Classifier, accuracy, look, teach
from benchmarks.measuring import keep, machine, rows, said
from models.backends.trained_engine import SHIPPED
from models.training.cards import write_card
from models.training.data import ImageData, fashion_mnist
from models.training.loop import sheet, to_pixels
from models.training.saved import load_model
from models.training.settings import TEXT_FAMILIES
from models.training.shipped import RECIPES

PUPIL_STEPS = 500
NEIGHBOURS = 1000
"""Images whose nearest neighbour is looked for."""
SHEET_ROWS = 8


def sample(folder: Path, count: int) -> tuple[ImageData, float]:
    """So many samples, the classes in turn, image k from seed k; and the seconds that it took."""
    model = load_model(folder)
    labels = torch.arange(count) % len(model.about.space.classes)
    started = time.perf_counter()
    made: list[Tensor] = []
    with torch.inference_mode():
        for places in torch.arange(count).split(50):
            noise = torch.stack([model.sampler.noise(torch.Generator().manual_seed(int(k))) for k in places])
            pixels = to_pixels(model.sampler.make(noise, labels[places]))
            made.append(torch.from_numpy(pixels[..., 0]).unsqueeze(1))
    seconds = time.perf_counter() - started
    data = ImageData(
        images=torch.cat(made), labels=labels, classes=model.about.space.classes, source=folder.name, license="-"
    )
    return data, seconds


def frechet(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The Frechet distance between normal distributions fitted to two sets of features."""
    root = _root(np.cov(first, rowvar=False))
    both = _root(root @ np.cov(second, rowvar=False) @ root)
    apart = first.mean(0) - second.mean(0)
    return float(
        apart @ apart + np.cov(first, rowvar=False).trace() + np.cov(second, rowvar=False).trace() - 2 * both.trace()
    )


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square root of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    rooted: NDArray[np.float64] = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return rooted


def nearest(images: Tensor, training: Tensor) -> NDArray[np.float64]:
    """Of each image the root mean square difference to the nearest training image, of levels from 0 to 1."""
    known = training.flatten(1).float() / 255
    lengths = known.square().sum(1)
    found = []
    for part in (images.flatten(1).float() / 255).split(250):
        squares = part.square().sum(1, keepdim=True) + lengths - 2 * part @ known.T
        found.append(squares.min(1).values.clamp(min=0) / known.shape[1])
    rooted: NDArray[np.float64] = torch.cat(found).sqrt().double().numpy()
    return rooted


def spread(distances: NDArray[np.float64]) -> dict[str, float]:
    return {"median": float(np.median(distances)), "first_percentile": float(np.percentile(distances, 1))}


def measure(samples: ImageData, classifier: Classifier, training: ImageData, test: ImageData) -> dict[str, Any]:
    """The figures of one set of images."""
    features, classes = look(classifier, samples.images)
    wanted = samples.labels.numpy()
    return {
        "fid": frechet(features, look(classifier, test.images)[0]),
        "class_accuracy": float((classes == wanted).mean()),
        "class_accuracy_by_class": {
            name: float((classes[wanted == index] == index).mean()) for index, name in enumerate(samples.classes)
        },
        "trained_on_samples": accuracy(teach(samples, steps=PUPIL_STEPS), test),
        "nearest_neighbour": spread(nearest(samples.images[:NEIGHBOURS], training.images)),
    }


def some(data: ImageData, count: int) -> ImageData:
    """So many of its images, drawn without looking."""
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
    return replace(data, images=data.images[chosen], labels=data.labels[chosen])


def table(figures: dict[str, Any]) -> str:
    body = [
        [
            name,
            f"{one['fid']:.2f}",
            f"{one['class_accuracy']:.3f}",
            f"{one['trained_on_samples']:.3f}",
            *(
                f"{one['nearest_neighbour'][which]:.3f}" if "nearest_neighbour" in one else "-"
                for which in ("median", "first_percentile")
            ),
            f"{one['images_per_second']:.1f}" if "images_per_second" in one else "-",
        ]
        for name, one in [*figures["models"].items(), ("training images", figures["training_images"])]
    ]
    head = [
        "images",
        "FID to the test images",
        "class accuracy",
        "accuracy of a classifier trained on them",
        "nearest training image: median",
        "1st percentile",
        "images/s",
    ]
    where = f"{figures['machine']['cores']} cores ({figures['machine']['processor']})"
    return (
        f"{figures['count']:,} images of each; the classifier that judges them finds "
        f"{figures['classifier_accuracy']:.1%} of the test images' classes; {where}\n\n"
        + rows(head, body)
        + f"\nTest images lie {figures['test_images']['median']:.3f} from the nearest training image in the median, "
        f"{figures['test_images']['first_percentile']:.3f} at the first percentile.\n"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    of_classes = sorted(name for name, recipe in RECIPES.items() if recipe.settings.family not in TEXT_FAMILIES)
    options.add_argument("--models", nargs="+", choices=of_classes, default=of_classes)
    options.add_argument("--count", type=int, default=5000)
    options.add_argument("--folder", type=Path, default=SHIPPED, help="where the models' folders are")
    options.add_argument("--cards", action="store_true", help="write the figures into the models' cards")
    given = options.parse_args()
    training, test = fashion_mnist(), fashion_mnist(test=True)
    classifier = fashion_classifier.load()
    figures: dict[str, Any] = {
        "machine": machine(),
        "count": given.count,
        "classifier_accuracy": accuracy(classifier, test),
        "test_images": spread(nearest(some(test, NEIGHBOURS).images, training.images)),
        "models": {},
    }
    with said("training images"):
        real = measure(some(training, given.count), classifier, training, test)
    del real["nearest_neighbour"]  # each is its own nearest neighbour
    for name in given.models:
        with said(name):
            samples, seconds = sample(given.folder / name, given.count)
            found = measure(samples, classifier, training, test)
            figures["models"][name] = {**found, "images_per_second": given.count / seconds}
        picture = sheet(samples.images[: 10 * SHEET_ROWS].float() / 127.5 - 1, 10)
        Image.fromarray(picture[..., 0]).save(given.folder / name / "samples.png", optimize=True)
    figures["training_images"] = real
    if given.cards:
        for name, found in figures["models"].items():
            shared = ("count", "classifier_accuracy", "test_images", "training_images")
            metrics = {**found, "reference": {key: figures[key] for key in shared}}
            about = load_model(given.folder / name).about
            write_card(given.folder / name, about, metrics, RECIPES[name].remarks)
    keep("image_quality", figures, table(figures))


if __name__ == "__main__":
    main()
