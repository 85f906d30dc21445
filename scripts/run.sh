#!/bin/sh
# Starts the demonstration: a daemon of its own on a free port, with models to try. -P: a stray
# daemon.py or ctl.py in this folder must not be run instead of ours.
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/python -P scripts/demo.py "$@"
