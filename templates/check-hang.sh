#!/bin/sh
# Fails when the server has answered since its start and does not any more. Written by the charm.
# A start can take minutes while journals are read: before its first answer nothing is wrong.
# Without the image's variables, which may name a proxy.
if env -i PATH="$PATH" wget -q -T 5 -O /dev/null http://127.0.0.1:8080/health; then
    touch /config/answered
elif [ -e /config/answered ]; then
    exit 1
fi
exit 0
