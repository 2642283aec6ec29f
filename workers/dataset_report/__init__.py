"""The quality report of a dataset: how like its source it is, what a model learns from it, and whom it gives away.

`report.make_report` computes it from local Parquet files, in memory that does not grow with them. `figures` and `gate`
import no engine, so that whoever reads a report, or asks for one, need not load what made it.
"""
