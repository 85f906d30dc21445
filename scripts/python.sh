#!/bin/sh
# Finds what can make a Python environment for modelport here, and prints one line:
#
#   venv PYTHON          this Python makes it (python -m venv)
#   uv UV PYTHON         uv makes it, with this Python or, given a version, with one of its own
#
#   scripts/python.sh [--below 3.14]     ignore Pythons of this version and newer
#
# A Python counts only if it runs: a pyenv or asdf shim may be on the PATH and fail.
# PYTHON=/path/to/python looks at that one alone. Exit 1: nothing fits; stderr has the command
# that mends it. MODELPORT_OS_RELEASE names another os-release file (tests).
set -u

oldest=11 # Python 3.11
below=99
wanted="3.$oldest or newer"
if [ "${1:-}" = "--below" ]; then
    below=${2#3.}
    wanted="$wanted (older than $2)"
fi

# Prints "MINOR EXECUTABLE" of a Python 3 that runs and fits; fails otherwise. The executable, since
# what a shim starts may depend on the folder.
look_at() {
    about=$("$1" -c 'import sys; print(sys.version_info[1] * (sys.version_info[0] == 3), sys.executable)' \
        2>/dev/null </dev/null) || return 1
    minor=${about%% *}
    case $minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$minor" -ge "$oldest" ] && [ "$minor" -lt "$below" ] && echo "$about"
}

bare=       # a Python that runs, but cannot make environments
bare_minor= # its version
for name in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    path=$(command -v "$name" 2>/dev/null) || continue
    about=$(look_at "$path") || continue
    path=${about#* }
    if "$path" -c 'import ensurepip, venv' >/dev/null 2>&1 </dev/null; then
        echo "venv $path"
        exit 0
    fi
    if [ -z "$bare" ]; then
        bare=$path
        bare_minor=${about%% *}
    fi
done

if uv=$(command -v uv 2>/dev/null) && "$uv" --version >/dev/null 2>&1 </dev/null; then
    echo "uv $uv ${bare:-3.13}"
    exit 0
fi

sudo=
[ "$(id -u)" = 0 ] || sudo="sudo "
system=$(uname -s)
if [ "$system" = Darwin ]; then
    family=macos
else
    release=${MODELPORT_OS_RELEASE:-/etc/os-release}
    family=$([ -r "$release" ] && . "$release" && echo " ${ID:-} ${ID_LIKE:-} ")
fi
case $family in
macos) command="brew install python@3.13" ;;
*" debian "* | *" ubuntu "*)
    if [ -n "$bare" ]; then
        command="${sudo}apt install python3.$bare_minor-venv"
    else
        command="${sudo}apt install python3 python3-venv"
    fi
    ;;
*" fedora "* | *" rhel "*) command="${sudo}dnf install python3.13" ;;
*" arch "*) command="${sudo}pacman -S python" ;;
*) command= ;;
esac

if [ -n "$bare" ]; then
    echo "modelport: $bare runs, but its venv or ensurepip module is missing." >&2
else
    echo "modelport needs Python $wanted; none of ${PYTHON:-python3.14 ... python3.11, python3} is one that runs." >&2
fi
if [ -n "$command" ]; then
    echo "Run:  $command" >&2
else
    echo "Install Python $wanted with its venv module, or uv." >&2
fi
exit 1
