"""Train one of the models that this project ships: `python -m models.training fashion-diffusion --out FOLDER`.

Goes on where the folder has checkpoints. Weights and card are written to FOLDER/fashion-diffusion when it ends.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image

from models.training.cards import write_card
from models.training.checkpoints import FolderCheckpoints
from models.training.loop import Progress, train
from models.training.saved import load_model, save_trained
from models.training.settings import TrainingSettings
from models.training.shipped import LARGEST_SHIPPED, RECIPES


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", choices=sorted(RECIPES))
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--steps", type=int)
    options.add_argument("--minutes", type=float)
    given = options.parse_args()
    changed = {name: value for name in ("steps", "minutes") if (value := getattr(given, name)) is not None}
    settings = TrainingSettings.model_validate(RECIPES[given.model].settings.model_dump() | changed)
    folder: Path = given.out

    def watch(told: Progress) -> None:
        losses = ", ".join(f"{name} {value:.4f}" for name, value in told.losses.items())
        print(f"step {told.step}/{told.steps}, {told.seconds:.0f} s: {losses}", file=sys.stderr, flush=True)
        if told.grid is not None:
            Image.fromarray(told.grid).save(folder / f"samples-{told.step:06}.png")

    folder.mkdir(parents=True, exist_ok=True)
    data = RECIPES[given.model].data(folder / "data")
    checkpoints = FolderCheckpoints(folder / "checkpoints")
    trained = train(data, settings, checkpoints, watch=watch, event_folder=folder / "events")
    save_trained(folder / given.model, trained, settings, data, largest_file=LARGEST_SHIPPED)
    write_card(folder / given.model, load_model(folder / given.model).about, {})


if __name__ == "__main__":
    main()
