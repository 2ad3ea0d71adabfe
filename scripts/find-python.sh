#!/usr/bin/env bash
# Print the path of a Python interpreter of the oldest version given or a newer one.
# Usage: scripts/find-python.sh OLDEST [NEWEST]
set -euo pipefail

oldest=$1 newest=${2:-3.99}
check='import sys
oldest, newest = (tuple(map(int, text.split("."))) for text in sys.argv[1:])
print(sys.executable) if oldest <= sys.version_info[:2] <= newest else sys.exit(1)'

# A name that a version manager hides behind a wrapper is tried by running it, and the manager's
# own folder is looked at after PATH. uv may know of more, but is never asked to download one.
candidates=(python3 python3.1{1,2,3,4,5} "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/python3)
for candidate in "${candidates[@]}"; do
    if found=$("$candidate" -c "$check" "$oldest" "$newest" 2>/dev/null); then
        echo "$found"
        exit 0
    fi
done
UV_PYTHON_DOWNLOADS=never uv python find ">=$oldest,<=$newest.99" 2>/dev/null
