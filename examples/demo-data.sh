#!/usr/bin/env bash
# A table fitted and a hundred thousand rows of it, and 500 dialogues that are not alike: `make demo-data`.
set -euo pipefail
out=${1:-out/demo-data}
nightmill=.venv/bin/nightmill
table=$PWD/$out/employees.csv
export NIGHTMILL_DATA_DIR=$PWD/$out/stack

.venv/bin/python examples/tables.py "$out"
$nightmill up --detach --port 0
trap '$nightmill down' EXIT

$nightmill plan examples/fit-employees.yaml --set data.file="$table"
$nightmill run examples/fit-employees.yaml --set data.file="$table"
$nightmill run examples/synthetic-employees.yaml --out "$out/employees"
$nightmill run examples/support-dialogues.yaml --out "$out/dialogues"
echo "reports: $out/employees/report.html $out/dialogues/report.html"
