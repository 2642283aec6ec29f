"""Write the example catalogue's JSONL and Parquet copies from its CSV: `python examples/build.py`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent


def read_products(path: Path) -> list[dict[str, str | float | int]]:
    """The catalogue's rows, price as a number of euros and weight as whole grams."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{**row, "price": float(row["price"]), "weight_g": int(row["weight_g"])} for row in csv.DictReader(file)]


def main() -> None:
    """Write `products.jsonl` and `products.parquet` beside `products.csv`."""
    rows = read_products(HERE / "products.csv")
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / "products.jsonl").write_text("".join(lines), encoding="utf-8")
    # Small row groups, so that the example is cut into several shards as a large file would be.
    pq.write_table(pa.Table.from_pylist(rows), HERE / "products.parquet", row_group_size=24, compression="zstd")


if __name__ == "__main__":
    main()
