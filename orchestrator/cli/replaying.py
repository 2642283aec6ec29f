"""`nightmill replay`: make one image again, and say whether it is the same."""

# ruff: noqa: PLC0415 - commands import what they need when they run, so that `--help` answers at once

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.jobs import JobId, find_job
from orchestrator.cli.output import NOT_COMPLETED, CommandError, guarded, print_json, stderr
from orchestrator.cli.stack import AsJson, DataDir


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far an image is from the one that it repeats."""

    same_bytes: bool
    same_pixels: bool
    signed: bool = False
    """Whether the bytes were the same before they were signed: a signature is another each time."""
    largest: int = 0
    """Largest difference of a channel's value, of 255."""
    mean: float = 0.0
    sizes: str | None = None
    """Both sizes, where they differ."""

    def __str__(self) -> str:
        if self.same_bytes:
            return "the same: same pixels, same bytes"
        if self.signed:
            return "the same: same pixels, same bytes but for the signature"
        if self.same_pixels:
            return "the same pixels, in other bytes"
        if self.sizes is not None:
            return f"not the same: {self.sizes}"
        return f"not the same: values differ by {self.largest} of 255 at most, {self.mean:.4f} on average"


def compare(before: bytes, after: bytes, *, signed: bool = False) -> Comparison:
    """Two image files, by their bytes and their pixels; `signed` as in `Comparison`."""
    import numpy as np
    from PIL import Image

    if before == after:
        return Comparison(same_bytes=True, same_pixels=True)
    first, second = (np.asarray(Image.open(io.BytesIO(data))).astype(np.int16) for data in (before, after))
    if first.shape != second.shape:
        sizes = " and ".join(
            f"{shape[1]} by {shape[0]}, {shape[2:][0] if shape[2:] else 1} channels"
            for shape in (first.shape, second.shape)
        )
        return Comparison(same_bytes=False, same_pixels=False, sizes=sizes)
    apart = np.abs(first - second)
    return Comparison(
        same_bytes=False, same_pixels=not apart.any(), signed=signed, largest=int(apart.max()), mean=float(apart.mean())
    )


@guarded
def replay(
    *,
    job_id: JobId,
    index: Annotated[int, typer.Argument(metavar="INDEX", min=0, help="The item.", show_default=False)],
    image: Annotated[int, typer.Option(min=0, help="Which of its images, from 0.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Keep both images in this folder.")] = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Make an image again, in the batch shape in which it was made, and compare. Exits with 1 if it is not the same."""
    from orchestrator.cli.following import follow
    from orchestrator.cli.progress import display
    from orchestrator.cli.reach import any_service, settings_for
    from orchestrator.cli.saving import save_file
    from orchestrator.image_spec import METADATA

    progress = display(stderr())
    with progress as shown, any_service(settings_for(data_dir), shown.phase) as service:
        client = service.client
        job = find_job(client, job_id)
        if (
            job_id == "last" and METADATA in job.metadata
        ):  # the newest job is a replay; the one that it repeats is meant
            job = client.job(job.metadata[METADATA].partition("/")[0])
        again = follow(client, client.replay(job.id, index, image).id, shown)
        records = client.results(again.id, limit=1).data if again.items else []
        if not records or not records[0].get("images"):
            why = records[0].get("error", {}).get("message", "") if records else ""
            why = why or (again.error.message if again.error is not None else again.status.value)
            raise CommandError(f"the image could not be made again: {why}")
        made = records[0]
        [found] = client.results(job.id, after=index - 1 if index else None, limit=1).data
        names = [_name(found["images"][image]), _name(made["images"][0])]
        before, after = client.image(job.id, names[0]), client.image(again.id, names[1])
    result = compare(before, after, signed=same_unsigned(found["images"][image], made["images"][0]))
    if out is not None:
        for name, data in ((names[0], before), (f"replay-{names[0]}", after)):
            save_file(out / name, [data])
    if as_json:
        print_json(_as_json(job.id, index, image, result, found, made))
    else:
        sys.stdout.write(f"image {names[0]} of {job.id} is {result}\n")
        if found["model_revision"] != made["model_revision"]:
            sys.stdout.write(f"  the model was {found['model_revision']}, and is {made['model_revision']} now\n")
    if not result.same_pixels:
        raise typer.Exit(NOT_COMPLETED)


def _name(image: dict[str, Any]) -> str:  # of a record: any JSON
    return str(image["key"]).rpartition("/")[2]


def same_unsigned(before: dict[str, Any], after: dict[str, Any]) -> bool:  # of records: any JSON
    """Whether two images' files were the same before they were signed, by their records."""
    first, second = (image.get("unsigned_sha256", image["sha256"]) for image in (before, after))
    return bool(first == second)


def _as_json(
    job: str, index: int, image: int, result: Comparison, found: dict[str, Any], made: dict[str, Any]
) -> dict[str, Any]:  # records: any JSON
    return {
        "job": job,
        "index": index,
        "image": image,
        "same_bytes": result.same_bytes,
        "same_before_signing": result.signed or result.same_bytes,
        "same_pixels": result.same_pixels,
        "max_difference": result.largest,
        "mean_difference": result.mean,
        "model_revision": [found["model_revision"], made["model_revision"]],
        "batch": found["images"][image]["batch"],
        "reproducible": found["reproducible"],
    }
