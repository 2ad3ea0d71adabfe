#!/usr/bin/env bash
# Put a small Debian (or Ubuntu) with the server of MySQL proper into a folder of this project.
# Usage: scripts/mysql-rootfs.sh .cache/mysql-rootfs
#
# Debian has MySQL in "unstable" only, which is why it is not simply installed. The server is run
# from the folder by tests/databases.py; nothing of the folder is started here.
set -euo pipefail

folder=$1
stop() {
    echo "mysql: MySQL cannot be had: $1." >&2
    exit 1
}

[ -x "$folder/usr/sbin/mysqld" ] && exit 0

command -v apt-get >/dev/null || stop "this machine has no apt to take it from"
scripts/apt-install.sh debootstrap "MySQL cannot be had" "test -x /usr/sbin/debootstrap"
[ -x /usr/sbin/debootstrap ] || stop "debootstrap is not installed"

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null ||
        stop "only root may run debootstrap: sudo is not there or wants a password"
fi

# The distribution itself and where this machine has it from, as apt sees it.
distribution=$(. /etc/os-release && echo "$ID")
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
case $distribution in
    debian) suite=unstable package=mysql-server-core ;;
    ubuntu)
        suite=$codename
        package=$(
            apt-cache --names-only search '^mysql-server-core(-[0-9.]+)?$' |
                cut -d " " -f 1 | sort -V | tail -n 1
        )
        [ -n "$package" ] || stop "apt knows no mysql-server-core: run apt-get update"
        ;;
    *) stop "it comes from Debian or Ubuntu, and this is $distribution" ;;
esac
mirror=$(
    apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' \
        'Created-By: Packages' |
        awk -v origin="$distribution" -v codename="$codename" \
            'tolower($1) == origin && $2 == codename && $3 == "main" { print $4; exit }'
)
[ -n "$mirror" ] || stop "apt has no list of packages of $distribution: run apt-get update"

echo "mysql: making a $distribution $suite with $package in $folder" >&2
mkdir -p "$(dirname "$folder")"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
making=$folder.making
"${as_root[@]}" rm -rf "$making"
if ! "${as_root[@]}" debootstrap --variant=minbase --include="$package" \
    "$suite" "$making" "$mirror" </dev/null >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    stop "debootstrap failed"
fi
"${as_root[@]}" rm -rf "$folder" "$making/var/cache/apt" "$making/var/lib/apt/lists"
"${as_root[@]}" mv "$making" "$folder"
