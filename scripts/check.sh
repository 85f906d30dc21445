#!/bin/sh
# What must hold before a commit: form, lint, types, import directions, the fast tests.
# All of them run, so that one look shows everything; the exit code says whether all passed.
#
#   scripts/check.sh [--static]      --static: without the tests
set -u
cd "$(dirname "$0")/.."
sh scripts/env.sh run test check || exit 1

failed=
check() { # check NAME COMMAND...
    name=$1
    shift
    echo "== $name"
    "$@" || failed="$failed $name"
}
bin=.venv/bin
check format "$bin/ruff" format --check --quiet .
check lint "$bin/ruff" check --quiet .
check types "$bin/mypy"
check imports "$bin/lint-imports"
if [ "${1:-}" != "--static" ]; then
    check tests "$bin/python" -m pytest -q --ignore tests/fakes \
        -m "not real and not slow and not processes and not mlx and not llama_server and not clients"
fi
if [ -n "$failed" ]; then
    echo "make check: failed:$failed"
    exit 1
fi
echo "make check: all passed"
