#!/usr/bin/env bash
# Run charmlint, which needs a newer Python than the charm does; a machine without one is told.
set -euo pipefail

if ! scripts/find-python.sh 3.12 >/dev/null; then
    echo "lint: charmlint was not run: it needs Python 3.12 or newer, and none was found" >&2
    exit 0
fi
scripts/venv.sh .cache/charmlint 3.12 requirements-charmlint.txt
.cache/charmlint/bin/charmlint --strict .
