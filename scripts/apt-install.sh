#!/usr/bin/env bash
# Install Debian or Ubuntu packages, unless a command shows that what they bring is there.
# Usage: scripts/apt-install.sh "PACKAGE..." "what is lost without them" "COMMAND" [three more ...]
#
# What is missing is installed at once. A machine where that is not possible is told what it loses
# and what would install it; it is no error.
set -euo pipefail

missing=() losses=() checks=()
while [ $# -gt 0 ]; do
    if ! bash -c "$3" >/dev/null 2>&1; then
        missing+=("$1")
        losses+=("$2")
        checks+=("$3")
    fi
    shift 3
done
[ ${#missing[@]} -gt 0 ] || exit 0

# Say why, what is still missing, and what would install it.
tell() {
    local each packages=()
    echo "setup: not everything could be installed: $1" >&2
    for each in "${!missing[@]}"; do
        if ! bash -c "${checks[$each]}" >/dev/null 2>&1; then
            packages+=("${missing[$each]}")
            echo "setup: missing: ${missing[$each]} (${losses[$each]})" >&2
        fi
    done
    echo "setup: to install it: $2${packages[*]}" >&2
    exit 0
}

by_hand="apt-get update && apt-get install "
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    by_hand="sudo apt-get update && sudo apt-get install "
    as_root=(sudo -n)
fi
command -v apt-get >/dev/null ||
    tell "there is no apt-get here" "with the names that your system has for Debian's "
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || tell "only root may, and there is no sudo" "as root, apt-get install "
    sudo -n true 2>/dev/null || tell "only root may, and sudo wants a password" "$by_hand"
fi

echo "setup: installing the system packages ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Run apt-get; where another program uses it, a new machine's own updates for one, wait for that.
apt() {
    local tries=0
    until "${as_root[@]}" env LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -qq \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 \
        "$@" </dev/null >"$log" 2>&1; do
        grep -q "Could not get lock" "$log" || return 1
        [ "$tries" -lt 60 ] || return 1
        [ "$tries" -gt 0 ] ||
            echo "setup: another program uses apt; waiting up to two minutes for it" >&2
        tries=$((tries + 1))
        sleep 2
    done
}

install() {
    apt install -y --no-install-recommends "$@"
}

# shellcheck disable=SC2206  # several packages in one word
packages=(${missing[*]})
# A fresh machine has no package lists yet, and old ones name what is there no more.
install "${packages[@]}" && exit 0
apt update && offline="" || offline=1
grep -Eq "^W: Failed to fetch|Temporary failure" "$log" && offline=1
install "${packages[@]}" && exit 0
# One that cannot be had shall not keep the others away.
[ -n "$offline" ] || for each in "${missing[@]}"; do
    # shellcheck disable=SC2086  # several packages in one word
    install $each || true
done
if grep -q "Could not get lock" "$log"; then
    tell "another program uses apt" "when that has ended: $by_hand"
elif [ -n "$offline" ]; then
    tell "apt-get does not reach its package servers" "with a connection to them: $by_hand"
fi
grep -E "^E: " "$log" | tail -n 3 >&2 || true
tell "apt-get refused" "$by_hand"
