#!/bin/sh
# Makes the test environments and runs the whole suite; arguments go to pytest.
#
#   scripts/test.sh                      everything but the full counts (make test-long)
#   scripts/test.sh -k scheduler -x
set -eu
cd "$(dirname "$0")/.."
sh scripts/env.sh run test mlx
if [ "$#" -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi

# Half of the time is spent waiting for other programs, most of it by real clients, a real systemd and
# daemons that are killed: they run beside the rest, and what they say comes after it.
apart="clients or systemd or beside"
said=$(mktemp)
.venv/bin/python -m pytest -m "not slow and ($apart)" -p no:cacheprovider >"$said" 2>&1 &
beside=$!
# "|| :": under -e a command that fails in here would become the exit status of the whole.
trap 'kill "$beside" 2>/dev/null || :; wait "$beside" 2>/dev/null || :; rm -f "$said"' EXIT
trap 'exit 130' INT TERM
status=0
.venv/bin/python -m pytest -m "not slow and not ($apart)" || status=$?
echo "== Real clients, a real systemd, daemons that are killed (run beside the above)"
others=0
wait "$beside" || others=$?
cat "$said"
[ "$status" -ne 0 ] || status=$others
exit "$status"
