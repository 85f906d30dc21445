#!/bin/sh
# Makes the test environments and runs the whole suite; arguments go to pytest.
#
#   scripts/test.sh                      everything but the full counts (make test-long)
#   scripts/test.sh -k scheduler -x
set -eu
cd "$(dirname "$0")/.."
sh scripts/env.sh run test mlx
if [ "$#" -eq 0 ]; then
    set -- -m "not slow"
fi
exec .venv/bin/python -m pytest "$@"
