"""One shard on one machine: read its range, generate in bulk, leave one immutable part. Knows no SQL."""
