#!/bin/sh
# A worker's container: a Ray node of its own, and beside it the generation worker. Either one's end ends both.
set -eu

: "${NIGHTMILL_REDIS_URL:?where Redis is}"
: "${NIGHTMILL_STORE_URL:?where the object store is: s3://bucket/prefix, or a file:/// folder that all containers share}"
port=${RAY_PORT:-6379}
# Who reaches a Ray port without a token can run code here.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_MODE RAY_AUTH_TOKEN

ray start --head --block --disable-usage-stats --include-dashboard=false \
    --node-ip-address=127.0.0.1 --port="$port" \
    --min-worker-port=0 --max-worker-port=0 --object-store-memory=134217728 &
ray=$!
trap 'kill -TERM "$ray" 2>/dev/null || true; exit 143' TERM INT
export NIGHTMILL_RAY_ADDRESS="127.0.0.1:$port"

tries=0
until ray status --address "$NIGHTMILL_RAY_ADDRESS" >/dev/null 2>&1; do
    kill -0 "$ray" 2>/dev/null || exit 1
    tries=$((tries + 1))
    [ "$tries" -lt 60 ] || exit 1
    sleep 1
done

python -m workers.tasks &
worker=$!
trap 'kill -TERM "$worker" 2>/dev/null || true' TERM INT

while kill -0 "$worker" 2>/dev/null && kill -0 "$ray" 2>/dev/null; do
    sleep 1
done
# The worker hands back what it has in flight before it ends; Ray has to be there until then.
kill -TERM "$worker" 2>/dev/null || true
wait "$worker" || true
kill -TERM "$ray" 2>/dev/null || true
wait "$ray" || true
