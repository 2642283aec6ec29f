"""The files of a linked table, and what of its subjects is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from workers.dataset_report.bins import Binned
from workers.dataset_report.figures import LinkedFigures
from workers.dataset_report.linked import LinkedTable, compare_linked, number_subjects
from workers.dataset_report.tables import MODELLED, SUBJECT, Feature, Tables, features_of
from workers.dataset_report.values import Codes

_PARENTS = "parents"


class LinkedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """How the rows of a dataset belong to subjects, and where these are."""

    foreign_key: str
    """Rows with one value of this column are one subject's sequence. It is of no figure itself."""
    order_by: str | None = None
    """The column by which a sequence goes, of numbers or times; None for the order of the files."""
    parent_key: str | None = None
    """The column of the subjects' table that the foreign key names; None where there is no such table."""
    parent_columns: Mapping[str, str] = {}
    """The kinds of that table's columns that rows are compared with."""
    synthetic: Sequence[Path] = ()
    """Files of the dataset's subjects, where there is such a table."""
    train: Sequence[Path] = ()
    """Those of the subjects that the model was fitted to."""
    holdout: Sequence[Path] = ()
    """Those of the subjects that were held out."""

    def of(self, name: str) -> Sequence[Path]:
        """The subjects' files of a table."""
        return {"synthetic": self.synthetic, "train": self.train, "holdout": self.holdout}[name]


def sample_rows(
    tables: Tables, name: str, features: Sequence[Feature], limit: int, seed: int, linked: LinkedFiles | None
) -> pa.Table:
    """Rows of a table, about `limit` at most; of a linked one with `SUBJECT`, whole sequences in their order."""
    if linked is None:
        return tables.sample(name, features, limit, seed)
    found = tables.sample_subjects(name, features, _share(tables, name, limit), seed)
    order = next((each for each in features if each.column == linked.order_by and each.kind != "category"), None)
    if order is None:
        return found
    return found.take(np.argsort(found.column(order.field).to_numpy(), kind="stable"))


def read_linked(
    tables: Tables,
    linked: LinkedFiles,
    samples: Mapping[str, pa.Table],
    binned: Sequence[Binned],
    limit: int,
    seed: int,
) -> LinkedFigures:
    """How the dataset's subjects and their rows compare with the source's.

    Args:
        tables: With the views of the rows.
        linked: Where the subjects are.
        samples: Rows as `sample_rows` gives them, of "synthetic" and, where they are there, "train" and "holdout".
        binned: The rows' columns: of the source, "train" before "holdout", and the dataset.
        limit: As for `sample_rows`.
        seed: As for `sample_rows`.
    """
    kinds = {name: kind for name, kind in linked.parent_columns.items() if name != linked.parent_key}
    parents = [feature for feature in features_of(kinds) if feature.kind in MODELLED]
    names = [name for name in ("train", "holdout") if name in samples]
    found: dict[str, LinkedTable] = {}
    if linked.parent_key is None:
        for name in (*names, "synthetic"):
            lengths = tables.lengths(name, _share(tables, name, limit), seed)
            found[name] = LinkedTable(keys=samples[name].column(SUBJECT), lengths=lengths)
    else:
        template = linked.train or linked.synthetic
        with Tables(features_of(kinds), template, key=linked.parent_key, others=True) as subjects:
            for name in (*names, "synthetic"):
                share = _share(tables, name, limit)
                subjects.add(name, linked.of(name))
                parent = subjects.sample_subjects(name, parents, share, seed)
                lengths = tables.lengths(name, share, seed)
                found[name] = LinkedTable(
                    keys=samples[name].column(SUBJECT),
                    lengths={str(key): lengths.get(str(key), 0) for key in parent.column(SUBJECT).to_pylist()},
                    parent_keys=parent.column(SUBJECT),
                    parent=parent,
                )
    compared = [found["synthetic"]] if not names else [_together([found[name] for name in names]), found["synthetic"]]
    figures = compare_linked(
        compared, binned, parents if linked.parent_key is not None else (), linked.foreign_key, seed
    )
    if linked.parent_key is None:
        return figures
    tables.add_keys(_PARENTS, linked.synthetic, linked.parent_key)
    orphans = tables.number(f"SELECT count(*) FROM synthetic ANTI JOIN {_PARENTS} USING ({SUBJECT})")  # noqa: S608
    return msgspec.structs.replace(figures, orphans=orphans, integrity=1 - orphans / tables.rows["synthetic"])


def one_row_each(table: pa.Table, seed: int) -> pa.Table:
    """A row of each subject, drawn by seed: what stands for itself."""
    subjects: Codes = number_subjects(table.column(SUBJECT))
    order = np.random.default_rng(seed).permutation(table.num_rows)
    _, firsts = np.unique(subjects[order], return_index=True)
    return table.take(np.sort(order[firsts]))


def _share(tables: Tables, name: str, limit: int) -> float:
    """The share of a table's subjects that has about so many rows."""
    return min(1.0, limit / max(1, tables.rows[name]))


def _together(tables: Sequence[LinkedTable]) -> LinkedTable:
    """Training and held-out subjects, of which none is in both."""
    keys = [table.parent_keys for table in tables if table.parent_keys is not None]
    parents = [table.parent for table in tables if table.parent is not None]
    return LinkedTable(
        keys=pa.chunked_array([chunk for table in tables for chunk in table.keys.chunks], type=pa.string()),
        lengths={key: length for table in tables for key, length in table.lengths.items()},
        parent_keys=pa.chunked_array([chunk for each in keys for chunk in each.chunks], pa.string()) if keys else None,
        parent=pa.concat_tables(parents) if parents else None,
    )
