#!/usr/bin/env bash
# Run tests/fresh, which needs debootstrap and Python's own library.
set -euo pipefail

[ "$(id -u)" -ne 0 ] || scripts/apt-install.sh debootstrap "no system can be made" "command -v debootstrap"
if ! python=$(scripts/find-python.sh 3.11); then
    echo "fresh: Python 3.11 or newer is needed: apt-get install python3" >&2
    exit 1
fi
PYTHONDONTWRITEBYTECODE=1 exec "$python" -m tests.fresh "$@"
