#!/bin/sh
# Runs the server and keeps its exit code. Written by the charm.
# Code 78 says that the volumes were written by a newer server: starting again cannot help, so it
# becomes 0, which Pebble does not restart. Any other end is a failure, which Pebble does restart.
rm -f /config/exit-code /config/answered
# A server that was killed while it removed a log leaves it empty, and does not open the store of
# one that is: there is nothing in it.
find /data/metadata/stores -type f -size 0 \( -name '*.mem' -o -name '*.vlog' \) -delete 2>/dev/null
# Pebble signals the whole process group: the shell must outlive the server's orderly end.
trap : TERM INT
# The server logs to stdout; stderr has its last words, which the status shows.
/app/dfs start --foreground --config /config/config.yaml 2> /config/last-words
code=$?
cat /config/last-words >&2
echo "$code" > /config/exit-code
[ "$code" -eq 78 ] && exit 0
[ "$code" -ne 0 ] && exit "$code"
exit 1
