#!/usr/bin/env bash
# Print the path of a Python interpreter that is at least as new as the version given.
# Usage: scripts/find-python.sh 3.12
set -euo pipefail

minimum=$1
check='import sys
wanted = tuple(int(part) for part in sys.argv[1].split("."))
print(sys.executable) if sys.version_info >= wanted else sys.exit(1)'

# A name that a version manager hides behind a wrapper is tried by running it, and the manager's
# own folder is looked at after PATH. uv may know of more, but is never asked to download one.
candidates=(python3 python3.1{1,2,3,4,5} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3)
for candidate in "${candidates[@]}"; do
    if found=$("$candidate" -c "$check" "$minimum" 2>/dev/null); then
        echo "$found"
        exit 0
    fi
done
UV_PYTHON_DOWNLOADS=never uv python find ">=$minimum" 2>/dev/null
