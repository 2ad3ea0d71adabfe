#!/bin/sh
# Runs the server and keeps how it ended. Written by the charm.
# Two ends are for good: code 78, by which the server refuses what is on the volumes, and the same
# refusal for the fifth time by a server that never answered. Starting again cannot help then, so
# they become 0, which Pebble does not restart. Any other end is a failure, which it does restart.
# The server reads every variable that begins with DITTOFS_, also those that Kubernetes makes for a
# service called dittofs-metrics: it gets what is named here, and nothing that was only inherited.
for name in $(env | sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p'); do
    case $name in
        PATH | GOMEMLIMIT | DITTOFS_CONTROLPLANE_SECRET | DITTOFS_ADMIN_INITIAL_PASSWORD) ;;
        *) unset "$name" ;;
    esac
done
# Pebble calls a server that it has told to end inactive, also as long as it has not ended.
echo $$ > /config/pid
rm -f /config/exit-code /config/answered /config/refused
# A server that was killed while it removed a log leaves it empty, and does not open the store of
# one that is: there is nothing in it.
find /data/metadata/stores -type f -size 0 \( -name '*.mem' -o -name '*.vlog' \) -delete 2>/dev/null
# Pebble signals the whole process group: the shell must outlive the server's orderly end.
trap : TERM INT
# The server logs to stdout; stderr has its last words, which the status shows.
/app/dfs start --foreground --config /config/config.yaml 2> /config/last-words
code=$?
cat /config/last-words >&2
# Times and process ids differ from try to try. Code 2 is a panic and from 128 on it is a signal:
# the charm may mend the first, and the second says nothing of the server.
words=$(grep '^Error' /config/last-words | tail -n 1 | tr -d '0-9')
[ -n "$words" ] || words=$(tail -n 1 /config/last-words | tr -d '0-9')
# What the system says and may take back by itself.
passing='no space left|disk is full|quota exceeded|address already in use|temporarily unavailable'
passing="$passing|is locked|directory lock|read-only file system|input/output error"
passing="$passing|cannot allocate memory|too many open files|timed out|deadline exceeded"
tries=0
if [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && [ "$code" -lt 128 ] && [ -n "$words" ] &&
    [ ! -e /config/answered ] && ! echo "$words" | grep -Eqi "$passing"; then
    tries=1
    if [ "$words" = "$(sed 1d /config/refusals 2>/dev/null)" ]; then
        tries=$(($(sed 1q /config/refusals) + 1))
    fi
fi
printf '%s\n%s\n' "$tries" "$words" > /config/refusals
[ "$code" -eq 78 ] || [ "$tries" -ge 5 ] && touch /config/refused
echo "$code" > /config/exit-code
# What has ended does not hang.
rm -f /config/answered
[ -e /config/refused ] && exit 0
[ "$code" -ne 0 ] && exit "$code"
exit 1
