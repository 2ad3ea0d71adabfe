#!/usr/bin/env bash
# Install the system packages that the tests and the demo use, and a Python that is new enough.
# Usage: scripts/system-packages.sh OLDEST_PYTHON
set -euo pipefail

oldest=$1
# Debian keeps the module that makes environments in a package of its own, one for each Python.
venv=python3-venv
if python=$(scripts/find-python.sh "$oldest"); then
    venv=$("$python" -c 'import sys; print("python{}.{}-venv".format(*sys.version_info))')
fi
has_uv="uv --version || .cache/tools/bin/uv --version"
makes_uv="python=\$(scripts/find-python.sh $oldest) &&
    { \"\$python\" -c 'import ensurepip, venv' || \"\$python\" -m pip --version; }"

set -- python3 "nothing of this project runs without Python $oldest or newer" \
    "scripts/find-python.sh $oldest"
set -- "$@" "$venv" "Python packages are installed with it" "$has_uv || { $makes_uv; }"
set -- "$@" bubblewrap "without it tests and demo run in folders, and some tests are skipped" "command -v bwrap"
# The server that the mirror of the metadata is tested with; of this package nothing is started.
set -- "$@" mariadb-server-core "what needs MySQL is skipped" \
    "command -v mariadbd || test -x /usr/sbin/mariadbd"
# Clients to read and write files with, of use only where there is a real server.
if command -v "${DITTOFS:-dfs}" >/dev/null; then
    set -- "$@" libnfs-utils "nothing is read or written over NFS" "command -v nfs-cp"
    set -- "$@" smbclient "nothing is read or written over SMB" "command -v smbclient"
fi
scripts/apt-install.sh "$@"

# Where the system's own Python is older, it often has a newer one beside it.
if ! scripts/find-python.sh "$oldest" >/dev/null && command -v apt-cache >/dev/null; then
    newer=$(
        apt-cache --names-only search '^python3\.[0-9]+$' | cut -d " " -f 1 | sort -V |
            awk -F . -v oldest="${oldest#*.}" '$2 >= oldest { print; exit }'
    )
    if [ -n "$newer" ]; then
        echo "setup: $(python3 --version 2>&1 || true) is too old: $newer is taken" >&2
        scripts/apt-install.sh "$newer $newer-venv" "nothing of this project runs without it" \
            "$makes_uv"
    fi
fi

# The tests against the real Badger are a Go program, and the tests themselves have no network.
if command -v go >/dev/null && [ -f tests/badger/go.mod ]; then
    (
        cd tests/badger
        export GOTOOLCHAIN=local
        go mod download && go mod download -modfile=badger-4.9.6.mod
    ) </dev/null ||
        echo "setup: the Go modules of tests/badger could not be downloaded: its tests are skipped" >&2
fi
