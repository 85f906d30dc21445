#!/bin/sh
# Compiles a true llama-server and llama-fit-params into .llama-server/ for the tests that drive
# one: from the sources inside the llama-cpp-python sdist (pinned by hash), in 3 to 10 minutes on
# two cores. -O1 and no OpenMP: quick to compile, and tests on busy cores do not spin.
#
#   scripts/llama_server.sh             nothing to do when it is there and its lock is the same
set -eu
cd "$(dirname "$0")/.."

target=.llama-server
lock=locks/llama-server.txt
commit=0c1e57098 # of llama.cpp, inside that sdist

if [ -x "$target/llama-server" ] && cmp -s "$lock" "$target/lock.txt"; then
    echo "$target/llama-server is there"
    exit 0
fi
missing=
for tool in cmake ninja c++ tar; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "modelport: to compile llama-server, these are missing:$missing" >&2
    case $(uname -s) in
    Darwin) echo "Run:  xcode-select --install; brew install cmake ninja" >&2 ;;
    *) echo "On Debian or Ubuntu run:  apt install cmake ninja-build g++" >&2 ;;
    esac
    exit 1
fi
sh scripts/env.sh run

work=$target/build
rm -rf "$work"
mkdir -p "$work"
echo "Fetching the sources (77 MB)"
# .venv may come from uv, without pip; any Python with pip will do to fetch a file
python=.venv/bin/python
"$python" -c 'import pip' 2>/dev/null || python=python3
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
    --require-hashes --dest "$work" --requirement "$lock"
tar xzf "$work"/llama_cpp_python-*.tar.gz -C "$work"
source=$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp)

echo "Compiling llama-server; the log is $work/build.log"
# LLAMA_USE_PREBUILT_UI=OFF: else the build tries to download a web page.
cmake -S "$source" -B "$work/tree" -G Ninja -DCMAKE_BUILD_TYPE=None \
    -DCMAKE_C_FLAGS=-O1 -DCMAKE_CXX_FLAGS=-O1 -DBUILD_SHARED_LIBS=OFF -DGGML_OPENMP=OFF \
    -DGGML_NATIVE=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT="$commit" >"$work/build.log" 2>&1 ||
    { tail -n 20 "$work/build.log" >&2; exit 1; }
ninja -C "$work/tree" llama-server llama-fit-params >>"$work/build.log" 2>&1 ||
    { tail -n 20 "$work/build.log" >&2; exit 1; }

mv "$work/tree/bin/llama-server" "$work/tree/bin/llama-fit-params" "$target/"
cp "$lock" "$target/lock.txt"
rm -rf "$work"
"$target/llama-server" --version 2>&1 | head -n 2
