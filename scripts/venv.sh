#!/usr/bin/env bash
# Make a virtual environment with exactly the packages of a hash-pinned requirements file.
# Usage: scripts/venv.sh .venv 3.11 requirements-dev.txt
#
# Nothing is done when the environment has them already.
set -euo pipefail

folder=$1 minimum=$2 requirements=$3
stamp=$folder/.requirements
tools=.cache/tools
export UV_PYTHON_DOWNLOADS=never

if cmp -s "$requirements" "$stamp" && "$folder/bin/python" -c "" 2>/dev/null; then
    exit 0
fi

stop() {
    echo "setup: $1" >&2
    exit 1
}

# Run a program of which only an error is of interest, and only its end.
quietly() {
    "$@" </dev/null >"$log" 2>&1 && return
    grep -v "^WARNING: " "$log" | tail -n 5 >&2
    return 1
}

# Install uv for this project alone.
install_uv() {
    echo "setup: installing uv into $tools" >&2
    rm -rf "$tools"
    if "$python" -c "import ensurepip, venv" 2>/dev/null; then
        quietly "$python" -m venv "$tools" || stop "$python could not make an environment"
        set -- "$tools/bin/pip" install
    elif "$python" -m pip --version >/dev/null 2>&1; then
        set -- "$python" -m pip install --target "$tools"
    else
        stop "uv cannot be installed: $python has neither venv nor pip; see above what installs it"
    fi
    quietly "$@" -q --retries 2 --require-hashes -r requirements-tools.txt || stop "$unreachable"
}

python=$(scripts/find-python.sh "$minimum") ||
    stop "Python $minimum or newer is needed and was not found"
[ -w . ] || stop "$PWD cannot be written to by $(id -un): clone the project into a folder that can"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
unreachable="the packages come from the package index (PyPI), which could not be used, see above; \
with a connection to it, try again: make setup"

# Not every user has a home to keep things in.
cache=${UV_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:-}/.cache}/uv}
if ! mkdir -p "$cache" 2>/dev/null || ! [ -w "$cache" ]; then
    export UV_CACHE_DIR=$PWD/.cache/uv PIP_NO_CACHE_DIR=1
fi

uv=uv
if ! uv --version >/dev/null 2>&1; then
    uv=$tools/bin/uv
    "$uv" --version >/dev/null 2>&1 || install_uv
fi

if ! "$folder/bin/python" -c "" 2>/dev/null; then
    rm -rf "$folder"
    quietly "$uv" venv -q --python "$python" "$folder" || stop "$folder could not be made"
fi
echo "setup: installing the packages of $requirements into $folder" >&2
quietly "$uv" pip sync -q --require-hashes --python "$folder/bin/python" "$requirements" ||
    stop "$unreachable"
cp "$requirements" "$stamp"
