#!/usr/bin/env bash
# Run sets of test folders side by side under coverage and report it; the last line is pytest's.
# Usage: scripts/test.sh MINIMUM_COVERAGE "FOLDER..." ["FOLDER..."]
#
# What waits for processes and what needs the processor share the cores well: the first set, which
# only computes, takes what the others leave. Each set has network and mount namespaces of its own.
set -euo pipefail

minimum=$1
shift
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

bin=.venv/bin
$bin/coverage erase
number=0
priority=10
for folders in "$@"; do
    number=$((number + 1))
    # shellcheck disable=SC2086  # several folders
    (
        code=0
        nice -n "$priority" $bin/coverage run -m pytest $folders </dev/null \
            >"$logs/$number" 2>&1 || code=$?
        echo "$code" >"$logs/$number.code"
    ) &
    priority=0
done
wait

failed=0
for ((each = 1; each <= number; each++)); do
    cat "$logs/$each"
    [ "$(cat "$logs/$each.code")" -eq 0 ] || failed=1
done
[ "$failed" -eq 0 ] || exit 1
$bin/coverage combine -q
# What cannot run on a machine covers nothing there; that says nothing about the tests.
if lacking=$(grep -hoE -m 1 "^functional: plain|there is no mariadbd" "$logs"/* | sort -u); then
    echo "test: the coverage is not judged, for some tests cannot run here: $lacking"
    minimum=0
fi
$bin/coverage report --fail-under="$minimum"
for ((each = 1; each <= number; each++)); do
    tail -n 1 "$logs/$each"
done
