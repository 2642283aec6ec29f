"""Parquet files as a report reads them: every row through DuckDB, on disk, and a sample of bounded size in memory.

Columns are known by number inside (`c0`, `c1`, …), so that no name needs quoting and none is confused with another:
DuckDB's names do not differ by case, those of Parquet do.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from workers.dataset_report.figures import FeatureKind

MEMORY_LIMIT: Final = "768MB"
"""Of DuckDB; beyond it, what joins and counts need goes to disk."""
THREADS: Final = 2
KINDS: Final[dict[str, FeatureKind]] = {
    "categorical": "category",
    "numeric": "number",
    "integer": "number",
    "datetime": "moment",
    "text": "text",
    "id": "key",
}
"""Of columns (models/tabular/columns.py). `geo` is two numbers."""
SUBJECT: Final = "subject"
"""In SQL and in samples: the key that says whose a row is."""
MODELLED: Final[tuple[FeatureKind, ...]] = ("category", "number", "moment")
_LOTS: Final = 1_000_000
_DATE_FORMATS: Final = ("%d.%m.%Y", "%Y/%m/%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%SZ")


class Feature(msgspec.Struct, frozen=True, kw_only=True):
    """A column as the report takes it: texts (category, text, key), or float64 with NaN for missing values."""

    name: str
    kind: FeatureKind
    column: str
    """In the files."""
    part: int = 0
    """Of a place: 1 for the latitude, 2 for the longitude."""
    place: int
    """Of the feature among all."""

    @property
    def field(self) -> str:
        """Its name in SQL and in samples."""
        return f"c{self.place}"


def features_of(columns: Mapping[str, str]) -> tuple[Feature, ...]:
    """The features of columns by their kinds.

    Raises:
        ValueError: a kind that there is not.
    """
    features: list[Feature] = []
    for column, kind in columns.items():
        if kind == "geo":
            for part, suffix in ((1, "latitude"), (2, "longitude")):
                name = f"{column}: {suffix}"
                features.append(Feature(name=name, kind="number", column=column, part=part, place=len(features)))
        elif kind in KINDS:
            features.append(Feature(name=column, kind=KINDS[kind], column=column, place=len(features)))
        else:
            raise ValueError(f"column {column!r}: {kind!r} is no kind; take one of {', '.join((*KINDS, 'geo'))}")
    return tuple(features)


class Tables:
    """The tables of a report, as views of a DuckDB database that lives as long as the context is open.

    Args:
        features: What is read of each table.
        template: Files of the table whose types the others are read as, if there is one: a whole number that comes
            back as a fraction (2, 2.0) is the same category.
        key: The column that says whose a row is, where rows belong to subjects. It is of no figure itself, and in SQL
            it is `SUBJECT`.
        others: Whether the tables may have columns that are not read.
    """

    def __init__(
        self, features: Sequence[Feature], template: Sequence[Path], *, key: str | None = None, others: bool = False
    ) -> None:
        self.features = tuple(features)
        self._key = key
        self._others = others
        self.rows: dict[str, int] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="nightmill-report-")
        self.database = duckdb.connect(
            config={
                "threads": THREADS,
                "memory_limit": MEMORY_LIMIT,
                "temp_directory": self._folder.name,
                "autoinstall_known_extensions": False,
            }
        )
        self.database.execute("SET TimeZone = 'UTC'")
        self._types = self._column_types(template)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        self._folder.cleanup()

    def add(self, name: str, files: Sequence[Path], where: Mapping[str, Any] | None = None) -> None:
        """Make a table known under a name, and count its rows.

        Args:
            name: In SQL.
            files: Of the table.
            where: By column, the value that rows must have to be of the table; None is a missing one.

        Raises:
            ValueError: a column that the report is to read is not in the files, or they have one it is not told of.
        """
        relation = self.database.read_parquet([str(file) for file in files])
        known = dict(zip(_column_names(files), relation.columns, strict=True))
        wanted = {feature.column for feature in self.features} | ({self._key} if self._key is not None else set())
        if absent := sorted(wanted - known.keys()):
            raise ValueError(f"the {name} table has no column {absent[0]!r}; it has {', '.join(known)}")
        if (unknown := sorted(known.keys() - wanted)) and not self._others:
            raise ValueError(f"the {name} table has a column {unknown[0]!r} of which no kind is given; give one")
        columns = [
            f"{_expression(feature, _quoted(known[feature.column]), self._types[feature.column])} AS {feature.field}"
            for feature in self.features
        ]
        if self._key is not None:
            columns.append(f"CAST({_quoted(known[self._key])} AS VARCHAR) AS {SUBJECT}")
        chosen = ", ".join(columns)
        types = dict(zip(known, map(str, relation.types), strict=True))
        alike = [_has(_quoted(known[column]), types[column], value) for column, value in (where or {}).items()]
        relation.create_view(f"raw_{name}")
        self.database.execute(
            f"CREATE VIEW {name} AS SELECT {chosen} FROM raw_{name} WHERE {' AND '.join(alike) or 'true'}"  # noqa: S608
        )
        self.database.execute(f"CREATE VIEW whole_{name} AS SELECT {chosen} FROM raw_{name}")  # noqa: S608
        self.rows[name] = self.number(f"SELECT count(*) FROM {name}")  # noqa: S608

    def add_keys(self, name: str, files: Sequence[Path], column: str) -> None:
        """Make a view of a column of other files, `SUBJECT`: the keys of a parent."""
        relation = self.database.read_parquet([str(file) for file in files], union_by_name=True)
        known = dict(zip(_column_names(files), relation.columns, strict=True))
        relation.create_view(f"raw_{name}")
        self.database.execute(
            f"CREATE VIEW {name} AS SELECT CAST({_quoted(known[column])} AS VARCHAR) AS {SUBJECT} FROM raw_{name}"  # noqa: S608
        )

    def number(self, query: str) -> int:
        """The one whole number that a query answers with."""
        # The connection takes nothing else until a result is read to its end.
        [(found,)] = self.database.execute(query).fetchall()
        return int(found or 0)

    def spread(self, name: str, feature: Feature) -> tuple[int, int]:
        """How many different values a feature has in all rows of a table, and how many rows have none.

        Values are told apart by a hash of 64 bits, so that long texts need no more room than numbers.
        """
        distinct = f"SELECT DISTINCT hash({feature.field}) FROM {name} WHERE {feature.field} IS NOT NULL"  # noqa: S608
        return (
            self.number(f"SELECT count(*) FROM ({distinct})"),  # noqa: S608
            self.number(f"SELECT count(*) FROM {name} WHERE {feature.field} IS NULL"),  # noqa: S608
        )

    def sample(self, name: str, features: Sequence[Feature], limit: int, seed: int) -> pa.Table:
        """Features of at most so many rows of a table, in its order; the same rows for the same seed."""
        if not features:
            return pa.table({"none": pa.nulls(min(limit, self.rows[name]))})
        fields = ", ".join(feature.field for feature in features)
        if self.rows[name] <= limit:
            return self._table(f"SELECT {fields} FROM {name}")  # noqa: S608
        chosen = np.random.default_rng(seed).choice(self.rows[name], limit, replace=False) + 1
        numbers = pa.table({"number": pa.array(np.sort(chosen))})
        self.database.register("chosen", numbers)
        try:
            return self._table(
                f"WITH numbered AS (SELECT {fields}, row_number() OVER () AS number FROM {name})"  # noqa: S608
                f" SELECT {fields} FROM numbered SEMI JOIN chosen USING (number) ORDER BY number"
            )
        finally:
            self.database.unregister("chosen")

    def sample_subjects(self, name: str, features: Sequence[Feature], share: float, seed: int) -> pa.Table:
        """Such a share of a table's subjects with all of their rows: features and `SUBJECT`, in its order.

        Who is drawn follows from the key and the seed: of two tables of the same subjects the same ones are.
        """
        fields = ", ".join([*(feature.field for feature in features), SUBJECT])
        return self._table(
            f"WITH numbered AS (SELECT {fields}, row_number() OVER () AS number FROM {name})"  # noqa: S608
            f" SELECT {fields} FROM numbered WHERE {_drawn(share, seed)} ORDER BY number"
        )

    def lengths(self, name: str, share: float, seed: int) -> dict[str, int]:
        """How many rows each of the subjects that are drawn likewise has, by key; `where` is not looked at."""
        query = f"SELECT {SUBJECT}, count(*) AS rows FROM whole_{name} WHERE {SUBJECT} IS NOT NULL AND "  # noqa: S608
        found = self._table(f"{query}{_drawn(share, seed)} GROUP BY {SUBJECT} ORDER BY {SUBJECT}")
        keys, rows = (found[name].to_pylist() for name in (SUBJECT, "rows"))
        return {str(key): int(count or 0) for key, count in zip(keys, rows, strict=True)}

    def _table(self, query: str) -> pa.Table:
        found: pa.Table = self.database.sql(query).to_arrow_table()
        return found

    def _column_types(self, template: Sequence[Path]) -> dict[str, str]:
        relation = self.database.read_parquet([str(file) for file in template])
        return dict(zip(_column_names(template), map(str, relation.types), strict=True))


def _drawn(share: float, seed: int) -> str:
    """Whether a subject is drawn, in SQL."""
    return f"hash({SUBJECT}, {seed}) % {_LOTS} < {round(share * _LOTS)}"


def _column_names(files: Sequence[Path]) -> list[str]:
    """Of Parquet files, as they are written there.

    Raises:
        ValueError: there are no files, or two columns have one name.
    """
    if not files:
        raise ValueError("a table is at least one Parquet file")
    names = list(pq.read_schema(files[0]).names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{files[0].name}: there are two columns {twice[0]!r}; each needs a name of its own")
    return names


def _expression(feature: Feature, column: str, original_type: str) -> str:
    """A column of files as a feature, in SQL."""
    if feature.part:
        return f"TRY_CAST(trim(split_part(CAST({column} AS VARCHAR), ',', {feature.part})) AS DOUBLE)"
    if feature.kind == "number":
        # NaN is how pandas writes a number that is missing; an infinite one has no place on any axis.
        return f"CASE WHEN isfinite(TRY_CAST({column} AS DOUBLE)) THEN TRY_CAST({column} AS DOUBLE) END"
    if feature.kind == "moment":
        formats = ", ".join(f"'{form}'" for form in _DATE_FORMATS)
        text = f"try_strptime(CAST({column} AS VARCHAR), [{formats}])"
        return f"epoch(coalesce(TRY_CAST({column} AS TIMESTAMP), {text}))"
    if feature.kind == "text":
        return f"CAST({column} AS VARCHAR)"
    text = f"coalesce(CAST(TRY_CAST({column} AS {original_type}) AS VARCHAR), CAST({column} AS VARCHAR))"
    return f"nullif({text}, 'nan')" if original_type in {"DOUBLE", "FLOAT"} else text


def _has(column: str, kind: str, value: object) -> str:
    """Whether a column has a value, in SQL."""
    if value is None:
        # Of a Parquet file DuckDB finds no NaN with isnan: it skips row groups by their least and greatest value.
        known = f"coalesce(isfinite({column}), false)" if kind in {"DOUBLE", "FLOAT"} else f"{column} IS NOT NULL"
        return f"NOT {known}"
    written = "'" + str(value).replace("'", "''") + "'"  # as DuckDB reads any type that a column here has
    return f"{column} = TRY_CAST({written} AS {kind})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
