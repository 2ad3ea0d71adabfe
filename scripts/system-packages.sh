#!/usr/bin/env bash
# Install the system packages that the tests and the demo use.
set -euo pipefail

scripts/apt-install.sh bubblewrap \
    "the demo and tests/functional cannot run, they keep containers apart with it" command -v bwrap

# The server that the mirror of the metadata is tested with; of this package nothing is started.
scripts/apt-install.sh mariadb-server-core \
    "tests/mysql and what else needs MySQL is skipped" test -x /usr/sbin/mariadbd

# Clients to read and write files with, of use only where there is a real server.
if command -v "${DITTOFS:-dfs}" >/dev/null; then
    scripts/apt-install.sh libnfs-utils "nothing is read or written over NFS" command -v nfs-cp
    scripts/apt-install.sh smbclient "nothing is read or written over SMB" command -v smbclient
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
