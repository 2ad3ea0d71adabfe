#!/usr/bin/env bash
# Print a folder for temporary files that programs can be started from.
#
# Some machines mount /tmp so that nothing in it can be started, and $TMPDIR may name what is not
# there. A path of a socket has to fit into 107 bytes, so the folder may not be called too long; and
# commands are made with it, in which a space would end a word.
set -euo pipefail

longest=40
for folder in "${TMPDIR:-/tmp}" /tmp /var/tmp "$PWD/.cache"; do
    [[ ${#folder} -le $longest && $folder != *[^[:alnum:]/._+-]* ]] || continue
    program=$(mktemp -p "$folder" dittofs.XXXXXX 2>/dev/null) || continue
    printf '#!/bin/sh\n' >"$program"
    chmod +x "$program"
    code=0
    "$program" 2>/dev/null || code=$?
    rm -f "$program"
    [ $code -eq 0 ] || continue
    [ "$folder" = "${TMPDIR:-/tmp}" ] ||
        echo "setup: ${TMPDIR:-/tmp} is not fit for temporary programs: $folder is used" >&2
    echo "$folder"
    exit 0
done
