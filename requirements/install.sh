#!/usr/bin/env bash
# Install lock files into the virtual environment, without resolving anything: the locks are complete.
#
#   requirements/install.sh VENV LOCK...
#
# uv does it in a third of pip's time. It does not read pip's configuration, so the parts that matter are handed on.
# Where uv cannot do it (an index that only pip can log in to, say), pip does.
#
# TORCH_INDEX: an index that holds PyTorch's CPU build, for a machine whose pip does not find one.
set -euo pipefail

venv=$1
shift
python=$venv/bin/python
uv_version=0.13.9

requirements=()
for lock in "$@"; do requirements+=(-r "$lock"); done

setting() { # the value of pip's setting $1 from its environment variable or configuration files, on one line
  "$python" -m pip config list 2>/dev/null |
    sed -n -e "s/^:env:\.$1='\(.*\)'\$/\1/p" -e "s/^[a-z]*\.$1='\(.*\)'\$/\1/p" | tail -n 1 | sed 's/\\n/ /g'
}

with_uv() {
  "$python" -m pip install --quiet --no-deps "uv==$uv_version" || return 1
  local arguments=(--no-deps --index-strategy unsafe-best-match) index link
  for link in $(setting find-links); do arguments+=(--find-links "$link"); done
  index=$(setting index-url)
  if [ -n "$index" ]; then arguments+=(--default-index "$index"); fi
  for link in $(setting extra-index-url) ${TORCH_INDEX:-}; do arguments+=(--index "$link"); done
  UV_SYSTEM_CERTS=1 "$venv/bin/uv" pip install --quiet --python "$python" "${arguments[@]}" "${requirements[@]}"
}

with_pip() {
  # --no-compile: Python compiles what it imports, which is a small part of what is installed here.
  "$python" -m pip install --quiet --no-deps --no-compile ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} "${requirements[@]}"
}

echo "Installing $(cat "$@" | grep -c ==) packages into $venv" >&2
if ! with_uv; then
  echo "uv could not install it; trying pip" >&2
  with_pip
fi

# The lock leaves CUDA's libraries out, so a CUDA build of PyTorch cannot even be imported.
if ! grep -Eqs '^cuda\b.*= None' "$venv"/lib/python3*/site-packages/torch/version.py; then
  echo "This is not a CPU build of PyTorch. Say where one is: make TORCH_INDEX=URL …, with the URL of the CPU index that" >&2
  echo "PyTorch's install page names." >&2
  exit 1
fi
