#!/usr/bin/env bash
# Two linked tables made, fitted and sampled: customers, and the orders of each. From the project's folder:
# examples/linked/run.sh [DIR]
set -euo pipefail
out=$(realpath -m "${1:-out/linked}")
jobs=examples/linked
nightmill=.venv/bin/nightmill
export NIGHTMILL_DATA_DIR=$out/stack

.venv/bin/python $jobs/make_tables.py "$out"
$nightmill up --detach --port 0
trap '$nightmill down' EXIT

customers=$out/customers.csv
orders=$out/orders.csv
$nightmill plan $jobs/fit-orders.yaml --set data.file="$orders" --set data.parent.file="$customers"
$nightmill run $jobs/fit-customers.yaml --set data.file="$customers"
$nightmill run $jobs/fit-orders.yaml --set data.file="$orders" --set data.parent.file="$customers"
parent=$($nightmill run $jobs/customers.yaml --out "$out/customers" --json | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["id"])')
$nightmill run $jobs/orders.yaml --set table.parent="$parent" --out "$out/orders"
echo "tables: $out/customers/table.parquet $out/orders/table.parquet"
