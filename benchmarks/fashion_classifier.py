"""A small classifier of Fashion-MNIST: its features for FID, its opinion for class accuracy, and a pupil of samples.

Its weights lie in fashion_classifier/, so that figures of different days compare. Run as
`python -m benchmarks.fashion_classifier` to train them again (a few minutes).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models.training.data import ImageData, augmented, fashion_mnist, scaled
from models.training.settings import Augmentation

FOLDER = Path(__file__).with_name("fashion_classifier")
FEATURES = 128
BATCH = 128
CARD = """---
license: Apache-2.0
data: Fashion-MNIST, training images (MIT)
test_accuracy: {accuracy:.4f}
steps: {steps}
batch_size: 128
---

# The classifier behind the image quality figures

Four convolutions and {features} features, trained on the 60,000 training images of Fashion-MNIST alone, shifted and
mirrored at random. It is right on {accuracy:.1%} of the 10,000 test images. `benchmarks/image_quality.py` takes its
features for FID and its opinion for class accuracy; it is not meant for anything else.
"""


class Classifier(nn.Module):
    """Four convolutions, `FEATURES` features, ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, 48, 3, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(48, 96, 3, padding=1, bias=False),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.Conv2d(96, 96, 3, padding=1, bias=False),
            nn.BatchNorm2d(96),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2),
            nn.Flatten(),
            nn.Linear(96 * 9, FEATURES),
            nn.ReLU(),
        )
        self.out = nn.Linear(FEATURES, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.out(self.body(images))
        return logits


def teach(data: ImageData, *, steps: int, seed: int = 0) -> Classifier:
    """A classifier that has seen `data` alone: `steps` batches, the learning rate falling to nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    augmentation = Augmentation(flip=True, crop=True)
    for step in range(steps):
        images, labels = data.batch(step, BATCH, seed)
        images = augmented(images, augmentation, torch.Generator().manual_seed(step))
        with torch.autocast("cpu", torch.bfloat16):
            logits = classifier(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return classifier.eval()


@torch.inference_mode()
def look(classifier: Classifier, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features and likeliest classes of images (unsigned bytes)."""
    features, classes = [], []
    for part in images.split(500):
        found = classifier.body(scaled(part))
        features.append(found.double().numpy())
        classes.append(classifier.out(found).argmax(1).numpy())
    return np.concatenate(features), np.concatenate(classes)


def accuracy(classifier: Classifier, data: ImageData) -> float:
    """The share of images whose class it finds."""
    return float((look(classifier, data.images)[1] == data.labels.numpy()).mean())


def load() -> Classifier:
    """The one whose weights are kept."""
    classifier = Classifier()
    classifier.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return classifier.float().eval()


def main() -> None:
    steps = 1800
    classifier = teach(fashion_mnist(), steps=steps)
    FOLDER.mkdir(exist_ok=True)
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in classifier.state_dict().items()
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FOLDER / "model.safetensors")
    right = accuracy(load(), fashion_mnist(test=True))
    (FOLDER / "README.md").write_text(CARD.format(accuracy=right, steps=steps, features=FEATURES))
    print(json.dumps({"test_accuracy": right}))


if __name__ == "__main__":
    main()
