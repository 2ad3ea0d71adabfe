#!/usr/bin/env bash
# Run test folders under coverage and report it; the last line is pytest's closing line.
# Usage: scripts/test.sh MINIMUM_COVERAGE FOLDER...
set -euo pipefail

minimum=$1
shift
log=$(mktemp)
trap 'rm -f "$log"' EXIT

bin=.venv/bin
$bin/coverage erase
$bin/coverage run -m pytest "$@" </dev/null | tee "$log"
$bin/coverage combine -q
$bin/coverage report --fail-under="$minimum"
tail -n 1 "$log"
