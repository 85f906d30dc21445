#!/bin/sh
# Makes .venv-webui with Open WebUI (1.7 GB, a few minutes, once) and drives it by the tests marked
# "webui"; arguments go to pytest. Not locked and in no other run: it is far larger than modelport.
#
# Without PyTorch, which it takes for embeddings of its own alone: that saves some 5 GB more.
set -eu
cd "$(dirname "$0")/.."

version=0.12.4
venv=.venv-webui
sh scripts/env.sh run test
uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv) || {
    echo "modelport: no uv, which alone can leave a package out. Run: python3 -m pip install uv" >&2
    exit 1
}
if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$version" ]; then
    # Its packages are made for these Pythons.
    "$uv" venv --quiet --clear --python ">=3.11,<3.13" "$venv"
    echo "torch ; sys_platform == 'never'" >"$venv/leave-out.txt"
    echo "Installing Open WebUI $version into $venv (1.7 GB)" >&2
    "$uv" pip install --python "$venv/bin/python" --override "$venv/leave-out.txt" \
        "open-webui==$version"
    echo "$version" >"$venv/.stamp"
fi
MODELPORT_TEST_WEBUI=$venv exec .venv/bin/python -P -m pytest -m webui tests/e2e/test_open_webui.py "$@"
