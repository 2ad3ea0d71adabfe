#!/usr/bin/env bash
# Install a Debian or Ubuntu package, unless a command shows that what it brings is there.
# Usage: scripts/apt-install.sh PACKAGE "what cannot be done without it" COMMAND...
#
# A machine where that is not possible is told what it will miss; it is no error.
set -euo pipefail

package=$1 consequence=$2
shift 2

missing() {
    echo "setup: the system package $package is missing and $1." >&2
    echo "setup: without it: $consequence. To install it by hand: apt-get install $package" >&2
    exit 0
}

bash -c '"$@"' check "$@" >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null || missing "there is no apt-get to install it"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || missing "only root may install it: sudo is not there or wants a password"
fi

echo "setup: installing the system package $package" >&2
install=(
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120
    install -y --no-install-recommends "$package"
)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "${install[@]}" </dev/null >"$log" 2>&1; then
    # A fresh machine has no package lists yet.
    if ! { "${as_root[@]}" apt-get -qq update && "${install[@]}"; } </dev/null >"$log" 2>&1; then
        tail -n 3 "$log" >&2
        missing "apt-get could not install it"
    fi
fi
