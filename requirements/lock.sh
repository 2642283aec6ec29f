#!/usr/bin/env bash
# Make the lock files again from the *.in files: `make lock`. Versions that still fit are kept; delete a lock first to
# let everything move.
set -euo pipefail
cd "$(dirname "$0")"

uv=${1:-uv}
compile() {
  UV_SYSTEM_CERTS=1 "$uv" pip compile --quiet --python-version 3.11 --override overrides.txt --no-annotate \
    --custom-compile-command "make lock" --output-file "$1" "$2"
}

compile cpu.lock cpu.in
compile dev.lock dev.in
# dev.lock holds only what comes on top of cpu.lock.
{ head -n 2 cpu.lock; grep -vxFf cpu.lock dev.lock; } >dev.lock.new
mv dev.lock.new dev.lock
