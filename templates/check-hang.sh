#!/bin/sh
# Fails when the server has answered since its start and does not any more. Written by the charm.
# A start can take minutes while journals are read: before its first answer nothing is wrong.
# Without the image's variables, which may name a proxy.
env -i PATH="$PATH" wget -q -T 5 -O /dev/null http://127.0.0.1:8080/health
code=$?
# One that is not there, or crashes, says nothing of the server; the server's own program does.
if [ "$code" -ge 126 ]; then
    case $(env -i PATH="$PATH" /app/dfs status --api-port 8080 --output json) in
        *'"running": true'*) code=0 ;;
    esac
fi
if [ "$code" -eq 0 ]; then
    touch /config/answered
elif [ -e /config/answered ]; then
    exit 1
fi
exit 0
