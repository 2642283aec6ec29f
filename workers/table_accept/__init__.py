"""What rows of a table must fulfil: the rules, whether a row fulfils them, and whether all rows together do.

`rules` is light: the control plane reads it. The others ask DuckDB, which does so a column at a time, and goes to disk
where a table is larger than the memory that it may have.
"""

from workers.table_accept.rules import TableRules

__all__ = ["TableRules"]
