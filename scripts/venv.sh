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

# Install uv for this project alone.
install_uv() {
    echo "setup: installing uv into $tools" >&2
    # Debian keeps the module that makes environments in a package of its own.
    scripts/apt-install.sh python3-venv "uv is installed with pip" "$python" -c "import ensurepip, venv"
    rm -rf "$tools"
    if "$python" -m venv "$tools" >/dev/null 2>&1; then
        "$tools/bin/pip" install -q --require-hashes -r requirements-tools.txt
    else
        "$python" -m pip install -q --target "$tools" --require-hashes -r requirements-tools.txt
    fi
}

if cmp -s "$requirements" "$stamp" && "$folder/bin/python" -c "" 2>/dev/null; then
    exit 0
fi

scripts/apt-install.sh python3 "nothing of this project runs" scripts/find-python.sh "$minimum"
if ! python=$(scripts/find-python.sh "$minimum"); then
    echo "setup: Python $minimum or newer is needed and was not found" >&2
    exit 1
fi

uv=uv
if ! uv --version >/dev/null 2>&1; then
    uv=$tools/bin/uv
    "$uv" --version >/dev/null 2>&1 || install_uv
fi

if ! "$folder/bin/python" -c "" 2>/dev/null; then
    rm -rf "$folder"
    "$uv" venv -q --python "$python" "$folder"
fi
echo "setup: installing the packages of $requirements into $folder" >&2
"$uv" pip sync -q --require-hashes --python "$folder/bin/python" "$requirements"
cp "$requirements" "$stamp"
